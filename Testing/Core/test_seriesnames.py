"""Descriptions of series as scanners and radiographers write them: native or with contrast agent."""

from __future__ import annotations

import pytest
from SAHLoRALib.seriesnames import names_agent, says_enhanced, says_native

NATIVE = (
    """\
HEAD W/O|CT HEAD W/O CONTRAST|HEAD W/O  CONTRAST|HEAD WO CONTRAST|CT HEAD WO CON|CT HEAD WITHOUT CONTRAST
CT HEAD W/O IV CONTRAST|HEAD WITHOUT INTRAVENOUS CONTRAST|CT HEAD WO INTRAVENOUS CONTRAST|CT HEAD W/O I.V. CONTRAST
CT Head without contrast material|head without any contrast|NON CONTRAST HEAD|NON-CONTRAST HEAD|NONCONTRAST HEAD|HEAD NONCON
ROUTINE HEAD NON CON|NO CONTRAST|NO IV CONTRAST|NC HEAD|NCCT HEAD|NCCT nativ 4.0 MPR|CT PRE CONTRAST 5MM STD|HEAD W/O C
C- 5mm|Head C-|Kopf nativ|Kopf ohne KM|Kopf o. KM|Schädel o.KM 5.0|Kopf oKM|Kopf vor KM|Kopf KM nativ|Kopf KM-frei
Kopf nativ ohne Kontrastmittel|cCT ohne KM|Schädel nativ 5.0 J30s|crâne sans injection|crâne sans IV|crane sans contraste
crâne IV-|avant contraste|cranio senza contrasto|craneo sin contraste|cranio sem contraste|S/ CONTRASTE|zonder contrast
utan kontrast|uden kontrast|Routine Head|Posterior fossa|POST FOSSA 2.5MM|post. fossa|post op|Head post op 5.0|pre/post op
POST TRAUMA HEAD|post-ictal|Post EVD 5.0|POST COIL|POST THROMBECTOMY|POST TPA|post mortem|HEAD W/C-SPINE|HEAD W C-SPINE
HEAD + C-SPINE|HEAD/C-SPINE|STROKE PROTOCOL|Neuro^HeadSeq|Head 3.0 Hr40 S3|HEAD 5.0|Ventrikel 3.0|CT HEAD W WO CONTRAST|brain
HEAD|Head, low dose|Schaedel Standard|CRANE|CEREBRAL|CT TETE|Controle J1
""".strip()
    .replace("\n", "|")
    .split("|")
)
ENHANCED = (
    """\
HEAD POST|Head post 5.0|POST CONTRAST|POST-CONTRAST|POSTCONTRAST|HEAD W IV|HEAD W/C|HEAD WITH CONTRAST|CT HEAD W CONTRAST
Head +C|HEAD+C|C+ 5mm|HEAD CE|CECT|HEAD ENHANCED|Kopf mit KM|Kopf m. KM|Kopf KM|Kopf nach KM|Head post KM 5.0|Head 5.0 KM
Schädel 1.0 i.v.|crâne IV+|crâne avec injection|crâne avec contraste|cranio con mdc|Kopf venös|Head arterial|Head delayed
COW 0.625|CT 4cc sec 150cc D3D on|CT POST CONTRAST THIN
""".strip()
    .replace("\n", "|")
    .split("|")
)


@pytest.mark.parametrize("description", NATIVE)
def test_native_descriptions(description: str) -> None:
    assert says_enhanced(description.lower().replace("_", " ")) == ""


@pytest.mark.parametrize("description", ENHANCED)
def test_descriptions_that_tell_of_contrast_agent(description: str) -> None:
    assert says_enhanced(description.lower().replace("_", " "))
    assert not says_native(description.lower())


@pytest.mark.parametrize(
    "value",
    ["", " ", "NONE", "No", "N", 
     "NO CONTRAST", "NON CONTRAST", "NON-CONTRAST", "WITHOUT CONTRAST", "W/O", "N/A", "NA", "-", "NO IV", "0 ML", "0.0", "0",
     "None Given", "Not Applicable", "NULL", "FALSE", "PLAIN", "nativ", "ohne KM", "kein", "kein KM", "sans", "ORAL", "Unknown"],
)  # fmt: skip
def test_headers_that_name_no_agent(value: str) -> None:
    assert not names_agent(value)


@pytest.mark.parametrize(
    "value", ["Omnipaque", "APPLIED", "NON IONIC", "NON-IONIC 300", "Iopamiro 370", "IV", "CE", "Yes", "100 ml Ultravist", "Optiray"]
)
def test_headers_that_name_an_agent(value: str) -> None:
    assert names_agent(value)
