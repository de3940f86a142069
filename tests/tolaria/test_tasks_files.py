from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from esper.leyline.load import ConfigError, load
from esper.leyline.rng import SeedTree
from esper.tolaria.config import TaskConfig
from esper.tolaria.tasks import Split, make_episode

if TYPE_CHECKING:
    from pathlib import Path

    from esper.tolaria.data import Dataset


def _config(preset: str, folder: Path, **settings: Any) -> TaskConfig:
    sizes = {"num_train": 20, "num_val": 10, "num_test": 8}
    return load(TaskConfig, {"preset": preset, "data_dir": str(folder), **sizes, **settings})


def _write_cifar(folder: Path, names: list[str], *, label_bytes: int, per_file: int) -> None:
    """Files in the official layout whose first pixel repeats the class and whose second is the record's own number."""
    folder.mkdir(parents=True)
    number = 0
    for name in names:
        records = np.random.default_rng(len(name)).integers(0, 256, (per_file, label_bytes + 3072), dtype=np.uint8)
        records[:, label_bytes - 1] = records[:, label_bytes] = np.arange(per_file) % 10
        records[:, label_bytes + 1] = number + np.arange(per_file)
        records.tofile(folder / name)
        number += per_file


def _write_cifar10(root: Path) -> None:
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    _write_cifar(root / "cifar-10-batches-bin", names, label_bytes=1, per_file=10)


def _first_pixels(dataset: Dataset) -> torch.Tensor:
    return dataset.train_x[:, 0, 0, 0]


def _assert_order_agrees(dataset: Dataset) -> None:
    assert torch.equal(_first_pixels(dataset).argsort(stable=True), dataset.train_y.argsort(stable=True))


@pytest.mark.parametrize("width", ["", "@1.25"])
def test_cifar10_reads_the_official_layout(tmp_path: Path, width: str) -> None:
    _write_cifar10(tmp_path)
    split: Split = "heldout" if width else "train"
    episode = make_episode(_config("cifar10", tmp_path, contexts=[f"cifar10/plain{width}"]), split, SeedTree(0))
    dataset = episode.dataset
    assert dataset.train_x.shape == (20, 3, 32, 32) and dataset.test_x.shape == (8, 3, 32, 32)
    assert dataset.augmentation == "crop_flip"
    assert torch.allclose(dataset.train_x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    _assert_order_agrees(dataset)
    numbers = torch.cat([dataset.train_x[:, 0, 0, 1], dataset.val_x[:, 0, 0, 1]])
    assert len(set(numbers.tolist())) == 30, "training and validation images are different records"


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    _write_cifar(tmp_path / "cifar-100-binary", ["train.bin", "test.bin"], label_bytes=2, per_file=50)
    dataset = make_episode(_config("cifar100", tmp_path), "train", SeedTree(0)).dataset
    assert dataset.num_classes == 100 and int(dataset.train_y.max()) < 10
    _assert_order_agrees(dataset)


def test_missing_cifar_says_what_to_download_and_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lacks data_batch_1.bin.*cifar-10-binary.tar.gz.*task.data_dir") as caught:
        make_episode(_config("cifar10", tmp_path), "train", SeedTree(0))
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(ConfigError, match=r"lacks train.bin, test.bin.*cifar-100-binary.tar.gz"):
        make_episode(_config("cifar100", tmp_path), "train", SeedTree(0))


def test_a_truncated_cifar_file_is_refused(tmp_path: Path) -> None:
    _write_cifar10(tmp_path)
    damaged = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"data_batch_3.bin has .* bytes"):
        make_episode(_config("cifar10", tmp_path), "train", SeedTree(0))


def test_asking_for_more_than_there_is_names_both_numbers(tmp_path: Path) -> None:
    _write_cifar10(tmp_path)
    with pytest.raises(ConfigError, match=r"num_train \+ task.num_val = 60, but there are 50"):
        make_episode(_config("cifar10", tmp_path, num_train=50), "train", SeedTree(0))


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _images(count: int) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0] = 20 * (np.arange(count) % 4)
    return pixels


def _write(folder: Path, columns: dict[str, Any]) -> None:
    table = pa.table(columns)
    for part in ("train", "test"):
        pq.write_table(table, folder / f"{part}.parquet")


@pytest.mark.parametrize("form", ["png", "struct", "lists"])
def test_parquet_images_round_trip(tmp_path: Path, form: str) -> None:
    pixels = _images(40)
    cells: dict[str, list[Any]] = {
        "png": [_png(image) for image in pixels],
        "struct": [{"bytes": _png(image), "path": None} for image in pixels],
        "lists": pixels.tolist(),
    }
    _write(tmp_path, {"picture": cells[form], "label": np.arange(40) % 4})
    dataset = make_episode(_config("parquet-images", tmp_path, image_column="picture"), "train", SeedTree(0)).dataset
    assert dataset.train_x.shape == (20, 3, 8, 8) and dataset.num_classes == 4
    _assert_order_agrees(dataset)
    scaled = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127).flatten(1)
    correlation = torch.corrcoef(torch.cat([dataset.train_x.flatten(1), scaled]))[:20, 20:]
    assert float(correlation.amax(1).min()) > 0.99, "every image drawn is one of those written"
    drawn = scaled.view(40, 3, 8, 8)[correlation.argmax(1)]
    expected = (drawn - drawn.mean((0, 2, 3), keepdim=True)) / drawn.std((0, 2, 3), keepdim=True)
    assert torch.allclose(dataset.train_x, expected, atol=1e-5)


def test_lists_that_are_not_whole_numbers_keep_their_values(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).normal(size=(40, 4, 4))
    _write(tmp_path, {"image": pixels.tolist(), "label": np.arange(40) % 4})
    train_x = make_episode(_config("parquet-images", tmp_path), "train", SeedTree(0)).dataset.train_x
    correlation = torch.corrcoef(torch.cat([train_x.flatten(1), torch.from_numpy(pixels).float().flatten(1)]))[:20, 20:]
    drawn = torch.from_numpy(pixels).float()[correlation.argmax(1)]
    assert torch.allclose(train_x[:, 0], (drawn - drawn.mean()) / drawn.std(), atol=1e-5)


@pytest.mark.parametrize("preset", ["parquet-images", "parquet-tokens"])
def test_parquet_is_decoded_once_and_again_when_it_changed(tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    column, cells = ("image", _images(40).tolist()) if preset == "parquet-images" else ("tokens", [[1, 2, 3]] * 40)
    _write(tmp_path, {column: cells, "label": np.arange(40) % 4})
    first = make_episode(_config(preset, tmp_path), "train", SeedTree(0)).dataset
    with monkeypatch.context() as patch:
        patch.setattr(pq, "ParquetFile", None)
        again = make_episode(_config(preset, tmp_path), "train", SeedTree(0)).dataset
        other = make_episode(_config(preset, tmp_path), "train", SeedTree(1)).dataset
    assert torch.equal(first.train_x, again.train_x) and torch.equal(first.train_y, again.train_y)
    assert not torch.equal(first.train_y, other.train_y)
    _write(tmp_path, {column: cells, "label": np.arange(40) % 7})
    assert make_episode(_config(preset, tmp_path), "train", SeedTree(0)).dataset.num_classes == 7


def test_another_column_of_the_same_file_is_another_data_set(tmp_path: Path) -> None:
    _write(tmp_path, {"image": _images(40).tolist(), "label": np.arange(40) % 4, "colour": np.arange(40) % 3})
    by_label = make_episode(_config("parquet-images", tmp_path), "train", SeedTree(0)).dataset
    by_colour = make_episode(_config("parquet-images", tmp_path, label_column="colour"), "train", SeedTree(0)).dataset
    assert (by_label.num_classes, by_colour.num_classes) == (4, 3)
    assert torch.equal(by_label.train_x, by_colour.train_x)


def test_what_is_decoded_lies_beside_the_files_or_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    (data / ".esper").write_text("in the way of the folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    _write(data, {"image": _images(40).tolist(), "label": np.arange(40) % 4})
    make_episode(_config("parquet-images", data), "train", SeedTree(0))
    assert len(list(cache.glob("esper/*/train_x.npy"))) == 1
    (data / ".esper").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    make_episode(_config("parquet-images", data), "train", SeedTree(0))
    assert len(list(data.glob(".esper/*/train_x.npy"))) == 1 and not (tmp_path / "other").exists()


def test_nowhere_to_keep_what_is_decoded_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, {"image": _images(40).tolist(), "label": np.arange(40) % 4})
    (tmp_path / ".esper").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "train.parquet"))
    with pytest.raises(ConfigError, match=r"none can be written in .*\.esper .*make one of these folders writable, or set XDG_CACHE_HOME"):
        make_episode(_config("parquet-images", tmp_path), "train", SeedTree(0))


def test_gray_images_get_one_channel(tmp_path: Path) -> None:
    _write(tmp_path, {"image": [_png(image[:, :, 0]) for image in _images(40)], "label": np.arange(40) % 4})
    assert make_episode(_config("parquet-images", tmp_path), "train", SeedTree(0)).dataset.train_x.shape == (20, 1, 8, 8)


def test_parquet_tokens_round_trip(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 9, (40, 6))
    tokens[:, 0], tokens[0, 1] = np.arange(40) % 3, 11
    _write(tmp_path, {"tokens": tokens.tolist(), "label": np.arange(40) % 3})
    dataset = make_episode(_config("parquet-tokens", tmp_path), "train", SeedTree(0)).dataset
    assert dataset.train_x.shape == (20, 6) and dataset.kind == "tokens"
    assert dataset.vocab_size == 12, "the largest token counts even where it was not drawn"
    assert torch.equal(dataset.train_x[:, 0], dataset.train_y)


@pytest.mark.parametrize(
    ("preset", "columns", "message"),
    [
        ("parquet-images", {"picture": [b"x"] * 40, "label": [0] * 40}, "no column 'image'; it has picture, label"),
        ("parquet-images", {"image": [1] * 40, "label": [0] * 40}, "column 'image' is int64; it should hold PNG"),
        ("parquet-images", {"image": [b"no image"] * 40, "label": [0] * 40}, "no PNG or JPEG"),
        ("parquet-images", {"image": [[[1, 2], [3]]] * 40, "label": [0] * 40}, "ragged or no numbers"),
        ("parquet-tokens", {"tokens": [[1, 2]] * 40, "label": ["a"] * 40}, "column 'label' is string; it should hold whole numbers"),
        ("parquet-tokens", {"tokens": [[0.5]] * 40, "label": [0] * 40}, "column 'tokens' is list.*whole numbers from 0"),
        ("parquet-tokens", {"tokens": [[1, 2]] * 39 + [[1]], "label": [0] * 40}, "one length"),
        ("parquet-tokens", {"tokens": [[1, -2]] * 40, "label": [0] * 40}, "negative token -2"),
        ("parquet-tokens", {"tokens": [[1, 2]] * 40, "label": [-1] * 40}, "negative label -1"),
        ("parquet-tokens", {"tokens": [[1, 2]] * 39 + [None], "label": [0] * 40}, "1 empty cells"),
        ("parquet-tokens", {"tokens": [[1, 2]] * 39 + [[1, None]], "label": [0] * 40}, "1 empty tokens"),
        ("parquet-tokens", {"tokens": [[1, 2]] * 40, "label": [0] * 39 + [None]}, "'label' has 1 empty cells in rows 0…39"),
        ("parquet-images", {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "has no rows"),
    ],
)
def test_schema_errors_name_the_column_and_what_is_right(tmp_path: Path, preset: str, columns: dict[str, Any], message: str) -> None:
    _write(tmp_path, columns)
    with pytest.raises(ConfigError, match=message):
        make_episode(_config(preset, tmp_path, num_train=30, num_val=10), "train", SeedTree(0))


def test_a_missing_parquet_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.parquet does not exist; put train.parquet and test.parquet"):
        make_episode(_config("parquet-images", tmp_path), "train", SeedTree(0))


def test_images_of_several_sizes_are_refused(tmp_path: Path) -> None:
    pixels = _images(40)
    _write(tmp_path, {"image": [_png(p if i else p[:4, :4]) for i, p in enumerate(pixels)], "label": [0] * 40})
    with pytest.raises(ConfigError, match="images of 2 shapes"):
        make_episode(_config("parquet-images", tmp_path, num_train=30, num_val=10), "train", SeedTree(0))
