"""Make English sentences into rough ones of other languages, word by word from word lists.

A sentence that says in another language's words, in English order and undeclined, what the English
says is no translation, but an encoder that learns to read it like one learns what the words mean
beside each other; parallel texts of most languages have few of their words. Every word list
NAME.LANG-en.tsv, with lines `word<TAB>English`, becomes a file rough-NAME.LANG-en.jsonl.gz.

    python trainer/word_by_word.py dictionaries/*.tsv.gz --english DATA/tatoeba.*-en.jsonl.gz \\
        --out rough/

The longest phrases of a sentence that a list has become their first word there, or sometimes
another. Articles fall away, numbers and names stay, and so does what the list does not have. A
sentence of which it has less than --known goes to no file.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tooling import check_new, count, give_report, open_lines, options, share, showing, write_object
from training_texts import languages_of, read_parallel

from m3search.cli.ending import run_script
from m3search.corpus.scripts import is_spaceless
from m3search.errors import ConfigError, DataError
from m3search.training.data import read_pairs

SHORTEST, LONGEST = 3, 25
"""words of a sentence"""
FIRST, OTHERS = 0.7, 3
"""how often a phrase becomes its first word, and from how many it is drawn else"""
PHRASE = 3
"""words of the longest entry that is looked for"""
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:[.,]\d+)*|[^\w\s]")
_OPENING = frozenset("([{“‘«¿¡")
_DROPPED = frozenset({"a", "an", "the"})
_ENDINGS = (("ies", "y"), ("es", ""), ("s", ""), ("ied", "y"), ("ed", ""), ("ed", "e"), ("ing", ""),
            ("ing", "e"), ("'s", ""), ("’s", ""))  # fmt: skip
"""of bent words, and what their base has in place of it; the first base that a list has is it"""

Words = Mapping[str, Sequence[str]]
"""English phrase, in lower case -> words of another language"""


class Rough(NamedTuple):
    """A sentence word by word."""

    text: str
    known: float
    """share of its words, names and numbers apart, that the list has"""


def read_words(path: Path) -> Words:
    """What a word list calls every English phrase, the list's first word first."""
    found: dict[str, list[str]] = defaultdict(list)
    for word, (english,), *_ in read_pairs(path):
        found[english.lower()].append(word)
    return found


def translate(sentence: str, words: Words, rng: random.Random) -> Rough:
    """The sentence in the words of the list."""
    tokens = _WORD.findall(sentence)
    place, asked, known, said = 0, 0, 0, list[str]()
    while place < len(tokens):
        token = tokens[place]
        named = place > 0 and _is_name(token, tokens[place - 1])
        length, choices = (1, ()) if named else _longest(tokens[place : place + PHRASE], words)
        if choices:
            said.append(choices[0] if rng.random() < FIRST else rng.choice(choices[:OTHERS]))
            asked, known = asked + length, known + length
        elif token.lower() not in _DROPPED:
            said.append(token)
            asked += token[0].isalpha() and not named
        place += length
    return Rough(_join(said), known / asked if asked else 0.0)


def _longest(tokens: Sequence[str], words: Words) -> tuple[int, Sequence[str]]:
    """How many of the first tokens are an entry, and its words; 1 and none where none is."""
    for length in range(len(tokens), 0, -1):
        phrase = " ".join(tokens[:length]).lower()
        found = words.get(phrase) or (words.get(_base(phrase, words), ()) if length == 1 else ())
        if found and phrase not in _DROPPED:
            return length, found
    return 1, ()


def _base(word: str, words: Words) -> str:
    bases = (word.removesuffix(end) + new for end, new in _ENDINGS if word.endswith(end))
    return next((base for base in bases if base in words), "")


def _is_name(token: str, before: str) -> bool:
    """Whether a word with a capital stands inside a sentence: behind a word, or a comma."""
    inside = before[-1].isalnum() or before == ","
    return inside and token[0].isupper() and re.split("['’]", token)[0] != "I"


def _join(said: Iterable[str]) -> str:
    """With spaces, but for scripts that have none, and before punctuation."""
    text = ""
    for word in said:
        close = not text or text[-1] in _OPENING
        close = close or not (word[0].isalnum() or word in _OPENING)
        close = close or (is_spaceless(ord(text[-1])) and is_spaceless(ord(word[0])))
        text += word if close else f" {word}"
    return text


def sentences(files: Sequence[Path]) -> list[str]:
    """The English texts of parallel files that are as long as a sentence, each once."""
    found = dict.fromkeys(pair.english for pair in read_parallel(files))
    return [text for text in found if SHORTEST <= len(_WORD.findall(text)) <= LONGEST]


def rough_pairs(
    english: Sequence[str], words: Words, rng: random.Random, least: float, most: int
) -> Iterator[tuple[str, str]]:
    """At most `most` rough sentences with their English, in random order."""
    made = 0
    for sentence in rng.sample(english, len(english)):
        if made == most:
            return
        rough = translate(sentence, words, rng)
        if rough.known >= least:
            made += 1
            yield rough.text, sentence


def language_of(path: Path) -> str:
    """That of a word list, by its name."""
    parts = path.name.split(".tsv")[0].split(".")
    try:
        language, english = languages_of(parts[-1])
    except ValueError:
        english = ""
    if english != "en" or len(parts) < 2:
        raise DataError(
            path,
            expected="a name as in NAME.de-en.tsv",
            found=path.name,
            remedy="Name the file by its languages.",
        )
    return language


def plan_files(lists: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """The file of each word list -> the list; ConfigError where two would write one."""
    planned: dict[Path, Path] = {}
    for path in lists:
        name, *_ = path.name.split(".")
        target = folder / f"rough-{name}.{language_of(path)}-en.jsonl.gz"
        if target in planned:
            raise ConfigError(
                "lists",
                expected="a file of its own for each",
                found=f"{target.name} for {planned[target]} and {path}",
                remedy="Leave one out, or give it another name.",
            )
        planned[target] = path
    return planned


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the options and writes the pairs of every language."""
    parser = options(__doc__)
    parser.add_argument("lists", type=Path, nargs="+", metavar="FILE", help="word lists")
    parser.add_argument(
        "--english", type=Path, nargs="+", required=True, metavar="FILE", help="parallel texts"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--most", type=count, default=5000, metavar="N", help="pairs of a list; default 5000"
    )
    parser.add_argument("--known", type=share, default=0.75, metavar="SHARE", help="default 0.75")
    parser.add_argument("--seed", type=int, default=42)
    given = parser.parse_args(arguments)
    check_new(given.out)
    planned = plan_files(given.lists, given.out)
    english = sentences(given.english)
    written: dict[str, int] = {}
    for target, path in showing(list(planned.items()), "lists"):
        rng, words = random.Random(f"{given.seed}:{path.name}"), read_words(path)
        language, made = language_of(path), 0
        with open_lines(target) as file:
            for rough, sentence in rough_pairs(english, words, rng, given.known, given.most):
                write_object(file, {"query": rough, "pos": [sentence], "lang": f"{language}-en"})
                made += 1
        written[path.name] = made
    give_report({"sentences": len(english), "written": written}, given.report)


if __name__ == "__main__":
    run_script(main)
