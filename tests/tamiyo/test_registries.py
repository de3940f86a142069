"""Registries: indices never move, unknown is 0, digests tell any difference."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.tamiyo.registries import CAPACITY, Registries, Registry, RegistryError

if TYPE_CHECKING:
    from pathlib import Path

names = st.lists(st.text(min_size=1, max_size=8).filter(lambda t: t != "unknown"), unique=True, max_size=20)


@given(names, names)
@settings(max_examples=50, deadline=None)
def test_extending_moves_no_index(first: list[str], second: list[str]) -> None:
    registry = Registry("seeds").extended(first)
    larger = registry.extended(second)
    assert [larger.index(n) for n in first] == [registry.index(n) for n in first] == list(range(1, len(first) + 1))
    assert larger.names[: len(registry.names)] == registry.names
    assert larger.extended(first + second) == larger
    assert all(larger.name(larger.index(n)) == n for n in first + second)


@given(names)
@settings(max_examples=50, deadline=None)
def test_a_registry_survives_json_with_its_digest(members: list[str]) -> None:
    registry = Registry("layer_types").extended(members)
    again = Registry.from_json(registry.to_json())
    assert again == registry
    assert again.digest == registry.digest
    assert registry.extended([*members, "one more name"]).digest != registry.digest


def test_what_is_not_registered_is_unknown() -> None:
    standard = Registries.standard()
    assert standard.layer_types.index("quantum_conv") == standard.layer_types.index(None) == 0
    assert [standard.optimizer_families.index(n) for n in ("sgd", "adam", "adamw", "rmsprop", "adagrad")] == [1, 2, 3, 4, 5]


def test_registries_survive_a_folder(tmp_path: Path) -> None:
    registries = Registries.standard(blueprints=["norm", "attention"], seeds=["s1"]).extended(layer_types=["quantum_conv"])
    registries.save(tmp_path / "registries")
    again = Registries.load(tmp_path / "registries")
    assert again == registries
    assert again.digests() == registries.digests()
    changed = {kind for kind, digest in registries.digests().items() if digest != Registries.standard().digests()[kind]}
    assert changed == {"blueprints", "seeds", "layer_types"}


def test_order_and_kind_belong_to_the_digest() -> None:
    a, b = Registry("seeds", ("unknown", "x", "y")), Registry("seeds", ("unknown", "y", "x"))
    assert len({a.digest, b.digest, Registry("blueprints", a.names).digest}) == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "JSON"),
        pytest.param("[" * 100_000, "too deeply", id="nested"),
        (json.dumps({"version": 1, "kind": "seeds", "names": ["unknown", "\ud800"]}), "Unicode"),
        ("[]", "version, kind and names"),
        (json.dumps({"version": 2, "kind": "seeds", "names": ["unknown"]}), "version 2"),
        (json.dumps({"version": 1, "kind": "seeds", "names": "unknown"}), "list of texts"),
        (json.dumps({"version": 1, "kind": "seeds", "names": ["a"]}), "begin with 'unknown'"),
        (json.dumps({"version": 1, "kind": "seeds", "names": ["unknown", "a", "a"]}), "stand twice"),
        (json.dumps({"version": 1, "kind": "seeds", "names": ["unknown", *map(str, range(CAPACITY))]}), "at most"),
    ],
)
def test_what_is_no_registry_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(RegistryError, match=complaint):
        Registry.from_json(text)


def test_a_missing_or_exchanged_file_is_refused(tmp_path: Path) -> None:
    Registries.standard().save(tmp_path)
    (tmp_path / "seeds.json").write_text((tmp_path / "hazards.json").read_text())
    with pytest.raises(RegistryError, match="registry of seeds"):
        Registries.load(tmp_path)
    (tmp_path / "seeds.json").unlink()
    with pytest.raises(RegistryError, match=r"seeds\.json is missing"):
        Registries.load(tmp_path)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000, b'{"version": ' + b"9" * 5000 + b"}", b"{}"], ids=["encoding", "nested", "digits", "keys"]
)
def test_a_file_that_is_no_registry_is_named(content: bytes, tmp_path: Path) -> None:
    Registries.standard().save(tmp_path)
    (tmp_path / "seeds.json").write_bytes(content)
    with pytest.raises(RegistryError, match=r"seeds\.json is no registry"):
        Registries.load(tmp_path)


def test_an_index_or_a_kind_that_is_not_there_is_refused() -> None:
    with pytest.raises(RegistryError, match="indices 0…5"):
        Registries.standard().optimizer_families.name(6)
    with pytest.raises(RegistryError, match="no registry 'colours'"):
        Registries.standard().extended(colours=["red"])
    with pytest.raises(RegistryError, match="no registry 'colours'"):
        Registries.standard().of("colours")
