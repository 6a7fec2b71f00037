"""Text becomes tokens while it is converted: the tokenizer's own, whole, the same for any workers and after a kill, and refused where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from typer.testing import CliRunner

import penstock as ps
from penstock.cli.app import app
from penstock.errors import BadRequest

TEXTS = [f"der Fluss {n} trägt Wasser, sehr viel Wasser {'ü' * (n % 5)}" * (n % 4) for n in range(200)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small tokenizer that cuts and pads, begins every text with a token, and knows one that ends it."""
    made = Tokenizer(models.BPE(unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[END]"], show_progress=False))
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    made.enable_truncation(5)
    made.enable_padding(length=50)
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save(str(folder / "tokenizer.json"))
    return folder


def opened(folder: Path) -> Any:
    """Return the tokenizer without what cuts and pads."""
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.no_truncation()
    made.no_padding()
    return made


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return a Parquet file of texts with numbers."""
    path = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"n": range(len(TEXTS)), "text": TEXTS}), path, row_group_size=30)
    return path


def tokens(dataset: str | Path) -> list[list[int]]:
    """Return the tokens of all rows."""
    return [row["tokens"].tolist() for row in ps.Dataset(dataset)]


@pytest.mark.parametrize("format", ["arrow", "tar"])
@pytest.mark.parametrize("workers", [0, 2])
def test_tokens_are_the_tokenizers(tokenizer: Path, table: Path, tmp_path: Path, format: str, workers: int) -> None:  # noqa: A002 - the design's name
    """Every row holds what the tokenizer makes of its text, whole, and the other columns; the dataset says by which tokenizer."""
    ps.convert(table, tmp_path / "out", tokenize=str(tokenizer), workers=workers, format=format)
    dataset = ps.Dataset(tmp_path / "out")
    assert dict(dataset.fields) == {"n": ps.Scalar("int64"), "tokens": ps.Tokens("uint16")}
    assert tokens(tmp_path / "out") == [one.ids for one in opened(tokenizer).encode_batch(TEXTS)]
    assert [row["n"] for row in dataset] == list(range(len(TEXTS)))
    assert dataset.metadata["tokenizer"]["name"] == tokenizer.name


def test_an_end_token_and_no_special_ones(tokenizer: Path, table: Path, tmp_path: Path) -> None:
    """A token may be put behind every row, and the tokenizer's own left out; a file is as good as its folder."""
    ps.convert(table, tmp_path / "out", tokenize=str(tokenizer / "tokenizer.json"), end_token="[END]", special_tokens=False, shuffle=3, workers=0)
    expected = [[*one.ids, 2] for one in opened(tokenizer).encode_batch(TEXTS, add_special_tokens=False)]
    found = {row["n"]: row["tokens"].tolist() for row in ps.Dataset(tmp_path / "out")}
    assert [found[n] for n in range(len(TEXTS))] == expected


def test_the_command_line_from_lines_of_json(tokenizer: Path, tmp_path: Path) -> None:
    """`penstock convert --tokenize` reads JSON Lines too, sets rows without text aside, and what it wrote is packed and trained on."""
    lines = [json.dumps({"body": text}) for text in TEXTS]
    lines[7] = json.dumps({"body": None})
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    arguments = [
        "convert",
        str(tmp_path / "texts.jsonl"),
        str(tmp_path / "out"),
        "--tokenize",
        str(tokenizer),
        "--text-column",
        "body",
        "--max-bad",
        "1",
    ]
    done = CliRunner().invoke(app, [*arguments, "--workers", "0", "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows_set_aside"] == 1
    expected = [one.ids for n, one in enumerate(opened(tokenizer).encode_batch(TEXTS)) if n != 7]
    assert tokens(tmp_path / "out") == expected
    packed = ps.Packed(ps.Dataset(tmp_path / "out"), 64)
    total = sum(int((batch["document_ids"] >= 0).sum()) for batch in ps.DataLoader(packed, 4, output="numpy"))
    assert total == sum(map(len, expected))


def test_more_rows_are_appended_by_the_same_tokenizer_only_in_kind(tokenizer: Path, table: Path, tmp_path: Path) -> None:
    """Appending tokenizes as the first time; appending text as it is is refused, since its columns are others."""
    for append in (False, True):
        ps.convert(table, tmp_path / "out", tokenize=str(tokenizer), workers=0, append=append)
    assert len(ps.Dataset(tmp_path / "out")) == 2 * len(TEXTS)
    with pytest.raises(BadRequest, match="not those of the dataset"):
        ps.convert(table, tmp_path / "out", workers=0, append=True)


def test_a_tokenizer_that_changed_is_refused(tokenizer: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that finds another tokenizer than the one that was planned with says so, and nothing is published."""
    from penstock.ingest import convert as module

    real: Any = vars(module)["rule_of"]

    def planned(*arguments: Any, **options: Any) -> Any:
        from dataclasses import replace

        return replace(real(*arguments, **options), digest="0" * 32)

    monkeypatch.setattr(module, "rule_of", planned)
    with pytest.raises(Exception, match="is not the tokenizer that this conversion began with"):
        ps.convert(table, tmp_path / "out", tokenize=str(tokenizer), workers=0)
    assert not (tmp_path / "out" / "_penstock" / "commits").exists() or not list((tmp_path / "out" / "_penstock" / "commits").iterdir())


def test_what_cannot_be_tokenized_is_refused(tokenizer: Path, table: Path, tmp_path: Path) -> None:
    """No such file, no tokenizer in it, no such column, a column that is no text, a token that is none, and a name that is taken."""
    (tmp_path / "wrong.json").write_text("{}")
    pq.write_table(pa.table({"text": ["a"], "tokens": [[1]]}), tmp_path / "taken.parquet")
    for source, options, named in (
        (table, {"tokenize": str(tmp_path / "wrong.json")}, "no file, folder or hub name"),
        (table, {"tokenize": str(tokenizer), "text_column": "body"}, r"'body' is no column of text; those are \['text'\]"),
        (table, {"tokenize": str(tokenizer), "text_column": "n"}, "'n' is no column of text"),
        (table, {"tokenize": str(tokenizer), "end_token": "[EOS]"}, r"'\[EOS\]' is no token"),
        (tmp_path / "taken.parquet", {"tokenize": str(tokenizer)}, "has one already"),
    ):
        with pytest.raises(BadRequest, match=named):
            ps.convert(source, tmp_path / "out", workers=0, **options)  # type: ignore[arg-type]


def test_rows_that_the_tokenizer_refuses_are_set_aside(tmp_path: Path) -> None:
    """A vocabulary without a token for the unknown refuses rows with other words: those are quarantined, and the rest is kept."""
    made = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "small.json"))
    pq.write_table(pa.table({"text": ["a b", "a c", "b"]}), tmp_path / "some.parquet")
    report = ps.convert(tmp_path / "some.parquet", tmp_path / "out", tokenize=str(tmp_path / "small.json"), workers=0, max_bad=1)
    assert report.rows_set_aside == 1
    assert tokens(tmp_path / "out") == [[0, 1], [1]]
    told = "".join(path.read_text() for path in (tmp_path / "out" / "_penstock").rglob("*") if path.is_file() and "quarantine" in str(path))
    assert "text: the tokenizer refuses it: " in told


def test_a_large_vocabulary_takes_wider_tokens(tmp_path: Path) -> None:
    """Above 65,536 tokens they are 32 bits wide."""
    words = {f"w{n}": n for n in range(70_000)}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "big.json"))
    pq.write_table(pa.table({"text": ["w69999 w1 nothing"]}), tmp_path / "one.parquet")
    ps.convert(tmp_path / "one.parquet", tmp_path / "out", tokenize=str(tmp_path / "big.json"), workers=0)
    assert ps.Dataset(tmp_path / "out")[0]["tokens"].tolist() == [69_999, 1, 0]
    assert ps.Dataset(tmp_path / "out").fields["tokens"] == ps.Tokens("int32")
    assert np.iinfo("int32").max > 70_000
