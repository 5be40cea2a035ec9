"""What the words of a DICOM series say about contrast agent, in the languages and shorthands of scanners."""

from __future__ import annotations

import re

_AGENT = r"(?:contr\w*|kontr\w*|km|inj\w*|agents?|mdc|iv|i\.v\.?|con|c|enhanc\w*|gad\w*)(?!\w)"
#: A denial with the agent that it denies: non-contrast, w/o iv contrast, o. KM, sans injection; and words that mean it by themselves.
_NATIVE = re.compile(
    r"(?:(?<!\w)(?:non|no|not|without|wo|ohne|sans|sin|senza|sem|zonder|utan|uden|uten|kein\w*|pre|prä|prae|vor|avant|before|w/o|s/|o\.|o)[ .-]*"
    rf"(?:(?:any|intravenous|intravenös\w*|iv|i\.v\.?)[ .-]*)?{_AGENT}"
    r"|(?<!\w)(?:nativ\w*|plain|unenhanced|noncon\w*|ncct|nect|okm|km[ -]?frei)(?!\w)|(?<!\w)(?:c|iv|km)-(?![\w-]))"
)
#: An agent that is left when denials are taken out, vessels and phases that are not to be had without one, a rate of injection.
_ENHANCED = re.compile(
    r"(?<!\w)(?:contr(?:ast|aste|asto|ste)\w*|kontrast\w*|km|enhanced|ce|cect|mdc|inject\w*|injekt\w*|postcontrast|ven(?:ous|ös|oes)\w*|arteri(?:al|ell)\w*"
    r"|(?:veno|arterio|angio)gra\w*"
    r"|delayed|cow|willis|\d+ ?cc)(?!\w)"
    r"|(?<!\w)(?:with|w|w/|m\.|mit|avec|con) ?(?:iv|i\.v\.?|c)(?!\w)(?! ?-? ?(?:spine|collar))|(?<!\w)(?:i\.v\.|iv ?\+|c ?\+)"
    r"|\+ ?c(?!\w)(?! ?-? ?(?:spine|collar))"
    rf"|(?<!\w)post[ .-]*(?:{_AGENT}|\d|$)"
)
#: What stands in the header's field for the agent where there was none. A non-ionic agent is one.
_NO_AGENT = re.compile(
    r"(?:no|non(?! ?-?ionic)|none|not|nil|null|n/?\.?a\.?|n|w/?o|without|ohne|kein\w*|sans|sin|nativ\w*|plain|unenhanced|unknown|false"
    r"|oral\w*|0[\d.,]*)(?!\w)|[-.\s]*$"
)


def says_native(text: str) -> bool:
    """Whether a description says that no agent was given. text: in lower case, with blanks for underscores."""
    return _NATIVE.search(_evened(text)) is not None


def says_enhanced(text: str) -> str:
    """The word of a description that tells of contrast agent; empty where it denies it or says nothing. text: as for `says_native`."""
    found = _ENHANCED.search(_NATIVE.sub(" ", _evened(text)))
    return found[0].strip() if found and not re.search(r"(?<!\w)nativ", text) else ""


def names_agent(value: str) -> bool:
    """Whether the header's ContrastBolusAgent (0018,0010) names one."""
    return bool(value.strip()) and _NO_AGENT.match(value.strip().lower()) is None


def _evened(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
