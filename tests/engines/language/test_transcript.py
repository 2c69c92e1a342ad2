from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from worldline.engines.language.transcript import Exchange, Transcript, exchanges, request_hash
from worldline.errors import DataError


def exchange(number: int, answer: str | None = None) -> Exchange:
    request = {"model": "m", "seed": number}
    return Exchange(
        hash=request_hash(request), request=request, answer=answer or f"answer {number} — °C", input_tokens=10,
        output_tokens=None, seconds=0.5, num_tries=2,
    )  # fmt: skip


def test_what_was_added_is_found_here_and_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "transcript.jsonl"
    first = Transcript(path)
    assert first.get(exchange(0).hash) is None
    for number in range(5):
        first.add(exchange(number))
    for transcript in (first, Transcript(path)):
        assert [transcript.get(exchange(n).hash) for n in range(5)] == [exchange(n).answer for n in range(5)]
        assert transcript.get(exchange(5).hash) is None
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert (len(lines), lines[0]) == (5, vars(exchange(0)))


def test_a_line_that_says_no_tries_and_no_tokens_is_read(tmp_path: Path) -> None:
    path, one = tmp_path / "t.jsonl", exchange(0)
    path.write_text(json.dumps({"hash": one.hash, "request": one.request, "answer": one.answer}) + "\n")
    assert Transcript(path).get(one.hash) == one.answer
    assert list(exchanges(path)) == [replace(one, input_tokens=None, seconds=0.0, num_tries=None)]


def test_of_two_answers_the_first_counts(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    Transcript(path).add(exchange(0, "first"))
    Transcript(path).add(exchange(0, "second"))
    assert Transcript(path).get(exchange(0).hash) == "first"


@pytest.mark.parametrize("cut", [3, 9, 40, -1])
def test_a_line_that_was_cut_off_is_passed_over(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    Transcript(path).add(exchange(0))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:cut])
    again = Transcript(path)
    assert again.get(exchange(0).hash) == exchange(0).answer
    again.add(exchange(1))
    last = Transcript(path)
    assert [last.get(exchange(n).hash) for n in range(2)] == [exchange(n).answer for n in range(2)]


@pytest.mark.parametrize("text", ["time,position\n0,1\n", '{"a": 1}\n', "[" * 100_000 + "\n"])
def test_a_file_that_is_no_transcript_is_refused_and_left_alone(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match="line 1 is not a line of a transcript"):
        Transcript(path).get(exchange(0).hash)
    with pytest.raises(DataError, match="line 1"):
        Transcript(path).add(exchange(0))
    assert path.read_text() == text


def test_a_line_that_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    Transcript(path).add(exchange(0))
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DataError, match="not what was written"):
        Transcript(path).get(exchange(0).hash)
