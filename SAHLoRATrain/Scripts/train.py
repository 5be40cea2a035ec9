"""Train without a window: ``sahlora train`` inside Slicer, or under plain Python.

    Slicer --no-splash --no-main-window --python-script train.py -- CASES [FLAGS]
    python train.py CASES [FLAGS]

Without a display set QT_QPA_PLATFORM=offscreen. The flags are those of ``sahlora train --help``. It always ends, with the command's exit code:
Slicer stays open for ever when a script raises or just ends.
"""

COMMAND = "train"


def run():
    """The command's exit code; finds SAHLoRALib beside this file, one folder up, or in the other module of the source tree."""
    import sys
    from pathlib import Path

    here = Path(globals().get("__file__", sys.argv[0])).resolve().parent
    for folder in (here, here.parent, here.parents[1] / "SAHLoRASegment"):
        if (folder / "SAHLoRALib" / "cli.py").is_file():
            sys.path.insert(0, str(folder))
            break
    from SAHLoRALib.cli import main
    from SAHLoRALib.startup import large_pages

    large_pages()
    arguments = sys.argv[1:]
    return main([COMMAND, *(arguments[1:] if arguments[:1] == ["--"] else arguments)])


def leave(code):
    """End Slicer or Python with this exit code, everything printed."""
    import sys

    sys.stdout.flush()
    sys.stderr.flush()
    slicer = sys.modules.get("slicer")
    if slicer is not None and hasattr(slicer, "app"):
        slicer.util.exit(code)
    else:
        sys.exit(code)


if __name__ == "__main__":
    exit_code = 3
    try:
        exit_code = run()
    except BaseException as error:
        print(f"sahlora: error: {type(error).__name__}: {error}")
    finally:
        leave(exit_code)
