"""How much of each language a vocabulary is learned from: by use, not by what there happens to be.

English has the largest share, then the twenty largest languages, then about sixty others that
many people read and write; what is left goes to all others, tempered by their amount of text.
"""

from __future__ import annotations

from collections.abc import Mapping

_PERCENT = """
en 26
ru 3.0  es 3.0  de 2.9  ar 2.8  fr 2.7  pt 2.4  it 2.3  tr 2.2  ja 2.2  zh 2.0  hi 1.9  id 1.9
fa 2.0  vi 1.9  pl 1.9  nl 1.7  ko 1.7  uk 1.7  th 1.6  bn 1.4  ta 1.3  zh-Hant 1.0
sv 0.7  cs 0.7  ro 0.7  hu 0.7  el 0.7  he 0.7  da 0.6  no 0.6  fi 0.6  bg 0.6  sr 0.5  hr 0.5
ur 0.6  te 0.6  mr 0.5  gu 0.4  kn 0.4  ml 0.4  pa 0.4  ne 0.3  si 0.2  ms 0.5  tl 0.5  jv 0.3
sw 0.6  am 0.5  ha 0.3  yo 0.3  ig 0.3  so 0.3  zu 0.3  xh 0.2  af 0.4  om 0.2  sn 0.2  rw 0.2
sk 0.4  sl 0.4  et 0.5  lt 0.4  lv 0.4  ca 0.4  gl 0.3  eu 0.3  sq 0.3  mk 0.3  be 0.3  is 0.3
ka 0.3  hy 0.3  az 0.3  kk 0.3  uz 0.3  my 0.4  km 0.4  lo 0.2  nn 0.2  cy 0.2  ga 0.2  ckb 0.2
"""
SHARES = {
    language: float(percent) / 100
    for language, percent in zip(_PERCENT.split()[::2], _PERCENT.split()[1::2], strict=True)
}
"""parts of the whole, by language"""
TEMPER = 0.3
"""the exponent of the amounts of text by which the other languages share what is left"""
REPEATS = 4
"""how often a text may count where its language has too little"""


def fair_shares(
    amounts: Mapping[str, int], shares: Mapping[str, float] | None = None
) -> dict[str, float]:
    """The part of the whole that each language with text is wanted to have; they add up to 1.

    amounts: characters of each language. Languages that `shares` does not name have the rest, in
    proportion to amount**TEMPER.
    """
    wanted = SHARES if shares is None else shares
    named = {language: wanted[language] for language in amounts if language in wanted}
    others = {
        language: amounts[language] ** TEMPER for language in amounts if language not in wanted
    }
    left, total = max(0.0, 1 - sum(wanted.values())), sum(others.values())
    parts = named | {language: left * part / total for language, part in others.items()}
    scale = sum(parts.values())
    return {language: part / scale for language, part in parts.items()}
