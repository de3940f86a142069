from __future__ import annotations

import json
import pickle
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from esper.leyline.actions import NUM_HEADS
from esper.leyline.rng import SeedTree
from esper.tamiyo.features import METRICS
from esper.tamiyo.graph_builder import GraphBuilder
from esper.tamiyo.norms import FeatureNorms
from esper.tamiyo.registries import Registries
from esper.tamiyo.service import Observing, PolicyAnswerError, PolicyRejectedError, Rejection, load_policy, save_policy
from esper.tamiyo.service.manifest import hash_of, seal_of, version_of
from tests.tamiyo.reports import LIMITS, STEPS_PER_EPOCH, busy_report
from tests.tamiyo.service.policies import DIGESTS, OBSERVING, REGISTRIES, make_policy, store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_policy_comes_back_as_it_was(tmp_path: Path) -> None:
    policy = make_policy(3)
    version = save_policy(tmp_path / "p", policy, OBSERVING, digests=DIGESTS, num_updates=28, source={"task": "smoke"})
    stored = load_policy(tmp_path / "p", digests=DIGESTS)
    assert stored.version == version
    assert version.startswith("gnn_v1-28-")
    assert (stored.observing, stored.digests, stored.source) == (OBSERVING, DIGESTS, {"task": "smoke"})
    builder = GraphBuilder(LIMITS, steps_per_epoch=STEPS_PER_EPOCH, registries=REGISTRIES)
    batch = builder.build([busy_report(np.random.default_rng(seed)) for seed in range(4)])
    noise = np.random.default_rng(0).random((4, NUM_HEADS))
    ours, theirs = policy.act(batch, noise), stored.policy.act(batch, noise)
    np.testing.assert_array_equal(ours.actions, theirs.actions)
    np.testing.assert_array_equal(ours.log_prob, theirs.log_prob)
    assert not any(parameter.requires_grad for parameter in stored.policy.parameters())


def test_the_directory_holds_what_operators_look_for(tmp_path: Path) -> None:
    path = store(tmp_path / "p")
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    registries = {f"registries/{kind}.json" for kind in REGISTRIES.digests()}
    assert files == {"manifest.json", "weights.safetensors", "gnn_norms.json"} | registries
    assert json.loads((path / "manifest.json").read_text())["architecture_version"] == "gnn_v1"
    assert set(json.loads((path / "gnn_norms.json").read_text())["metrics"]) >= {"samples_per_s", "hook_latency_ms"}


def test_a_version_names_the_weights(tmp_path: Path) -> None:
    again, same, other = (load_policy(store(tmp_path / name, seed)).version for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert again == same
    assert again != other


def test_loading_leaves_torchs_own_generator_alone(tmp_path: Path) -> None:
    path = store(tmp_path / "p")
    before = torch.get_rng_state()
    load_policy(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_thread_that_draws_sees_its_own_stream_while_another_loads(tmp_path: Path) -> None:
    path = store(tmp_path / "p")
    versions: list[str] = []
    thread = threading.Thread(target=lambda: versions.extend(load_policy(path).version for _ in range(3)))
    with SeedTree(3).torch_scope():
        drawn = [torch.rand(())]
        thread.start()
        while thread.is_alive():
            drawn.append(torch.rand(()))
            thread.join(timeout=1e-4)
        drawn.append(torch.rand(()))
    assert len(versions) == 3
    with SeedTree(3).torch_scope():
        assert torch.equal(torch.stack(drawn), torch.stack([torch.rand(()) for _ in drawn]))


def test_what_exists_is_not_overwritten(tmp_path: Path) -> None:
    path = store(tmp_path / "p")
    with pytest.raises(FileExistsError):
        store(path, 1)
    assert [file.name for file in tmp_path.iterdir()] == ["p"]


def _cut(path: Path) -> None:
    weights = path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _flip(path: Path) -> None:
    data = bytearray((path / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "weights.safetensors").write_bytes(data)


def _edit(path: Path, **changes: object) -> None:
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _lack(path: Path, *names: str) -> None:
    file = path / "manifest.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key not in names}))


def _reseal(path: Path, **changes: object) -> None:
    """Edit the manifest as somebody would who knows how it is sealed."""
    file = path / "manifest.json"
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps(values | {"seal": seal_of(values)}))


def _rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights, and vouch for them."""
    file = path / "weights.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    found = hash_of(file.read_bytes())
    _reseal(path, sha256=_hashes(path) | {file.name: found}, policy_version=version_of(0, found))


def _renorm(path: Path, text: str) -> None:
    """Change the statistics for people, and vouch for them."""
    (path / "gnn_norms.json").write_text(text)
    _reseal(path, sha256=_hashes(path) | {"gnn_norms.json": hash_of(text.encode())})


def _hashes(path: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((path / "manifest.json").read_text())["sha256"]
    return found


def _weigh(tensors: dict[str, torch.Tensor], factor: float) -> None:
    """Scale all weights, and leave the statistics of the inputs."""
    tensors.update({name: tensor * factor for name, tensor in tensors.items() if not name.startswith("gnn.metrics.")})


def _limit(path: Path, **changes: object) -> None:
    limits = json.loads((path / "manifest.json").read_text())["limits"]
    _reseal(path, limits=limits | changes)


def _legacy(path: Path) -> None:
    for file in sorted(path.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    path.rmdir()
    torch.save({"fc1.weight": torch.zeros(2, 2)}, path)


def _refusal_after(damage: Callable[[Path], object], path: Path) -> PolicyRejectedError:
    """Why the directory is refused once it is damaged, in one line."""
    damage(path)
    with pytest.raises(PolicyRejectedError) as refused:
        load_policy(path)
    assert len(str(refused.value).splitlines()) == 1
    return refused.value


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (_cut, Rejection.ALTERED),
        (_flip, Rejection.ALTERED),
        (lambda path: (path / "gnn_norms.json").write_text("{}"), Rejection.ALTERED),
        (lambda path: (path / "registries" / "blueprints.json").write_text(Registries.standard().blueprints.to_json()), Rejection.ALTERED),
        (lambda path: _edit(path, policy_version="gnn_v1-99-aaaaaaaaaaaa"), Rejection.ALTERED),
        (lambda path: _edit(path, digests={}), Rejection.ALTERED),
        (lambda path: _edit(path, architecture_version="ffn_v0"), Rejection.ARCHITECTURE),
        (_legacy, Rejection.ARCHITECTURE),
        (lambda path: _lack(path, "sha256"), Rejection.UNREADABLE),
        (lambda path: (path / "weights.safetensors").unlink(), Rejection.UNREADABLE),
        (lambda path: (path / "manifest.json").unlink(), Rejection.UNREADABLE),
        (lambda path: (path / "manifest.json").write_text('{"format": '), Rejection.UNREADABLE),
        (lambda path: (path / "manifest.json").write_text("[1]"), Rejection.UNREADABLE),
    ],
)
def test_a_damaged_directory_is_refused(damage: Callable[[Path], object], kind: Rejection, tmp_path: Path) -> None:
    path = store(tmp_path / "p")
    refusal = _refusal_after(damage, path)
    assert refusal.kind is kind
    assert str(path) in str(refusal)


@pytest.mark.parametrize("digests", [{**DIGESTS, "catalogue": "xyz"}, {"catalogue": "abc"}, {**DIGESTS, "more": "1"}])
def test_registries_that_mean_something_else_are_refused(digests: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(PolicyRejectedError, match="digest of") as refused:
        load_policy(store(tmp_path / "p"), digests=digests)
    assert refused.value.kind is Rejection.DIGEST


@pytest.mark.parametrize("told", ["an older layout", None])
def test_a_policy_of_another_layout_of_observations_is_refused_even_as_the_first(told: str | None, tmp_path: Path) -> None:
    digests = {name: digest for name, digest in {**DIGESTS, "graph": told}.items() if digest is not None}
    with pytest.raises(PolicyRejectedError, match="digest of 'graph'") as refused:
        load_policy(store(tmp_path / "p", digests=digests))
    assert refused.value.kind is Rejection.DIGEST


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda path: (path / "manifest.json").write_text("[" * 100_000), Rejection.UNREADABLE),
        (lambda path: (path / "manifest.json").write_bytes(b"\xff\xfe"), Rejection.UNREADABLE),
        (lambda path: _reseal(path, format="something"), Rejection.ARCHITECTURE),
        (lambda path: _reseal(path, steps_per_epoch="abc"), Rejection.UNREADABLE),
        (lambda path: _reseal(path, steps_per_epoch=0), Rejection.UNREADABLE),
        (lambda path: _reseal(path, steps_per_epoch=10**400), Rejection.UNREADABLE),
        (lambda path: _reseal(path, steps_per_epoch=True), Rejection.UNREADABLE),
        (lambda path: _reseal(path, sha256=["x"]), Rejection.UNREADABLE),
        (lambda path: _reseal(path, sha256={"../elsewhere": "x"}), Rejection.UNREADABLE),
        (lambda path: _reseal(path, sha256={"\ud800\x00": "x"}), Rejection.UNREADABLE),
        (lambda path: _reseal(path, digests=["x"]), Rejection.UNREADABLE),
        (lambda path: _reseal(path, digests={"graph": 7}), Rejection.UNREADABLE),
        (lambda path: _reseal(path, digests=dict.fromkeys(["\ud800"], 7)), Rejection.UNREADABLE),
        (lambda path: _reseal(path, source=["x"]), Rejection.UNREADABLE),
        (lambda path: _reseal(path, policy_version=7), Rejection.UNREADABLE),
        (lambda path: _reseal(path, policy_version="gnn_v1-0-aaaaaaaaaaaa"), Rejection.ALTERED),
        (lambda path: _reseal(path, policy_version="\ud800"), Rejection.ALTERED),
        (lambda path: _reseal(path, unheard_of=1), Rejection.UNREADABLE),
        (lambda path: _reseal(path, config={"hidden_dim": "wide"}), Rejection.ARCHITECTURE),
        (lambda path: _reseal(path, config={"unheard_of": 1}), Rejection.ARCHITECTURE),
        (lambda path: _limit(path, blueprints=[32]), Rejection.UNREADABLE),
        (lambda path: _limit(path, tempos=[-1]), Rejection.UNREADABLE),
        (lambda path: _limit(path, max_seeds="many"), Rejection.UNREADABLE),
        (lambda path: _renorm(path, "{}"), Rejection.UNREADABLE),
        (lambda path: _renorm(path, FeatureNorms((9.0,) * len(METRICS), (1.0,) * len(METRICS)).to_json()), Rejection.ALTERED),
        (lambda path: _rewrite(path, lambda tensors: _weigh(tensors, 1e30)), Rejection.WEIGHTS),
        (lambda path: _rewrite(path, lambda tensors: tensors["gnn.metrics.var"].neg_()), Rejection.WEIGHTS),
        (lambda path: _rewrite(path, lambda tensors: tensors["gnn.metrics.var"].fill_(float("inf"))), Rejection.WEIGHTS),
        (lambda path: _rewrite(path, lambda tensors: tensors.update({k: v.long() for k, v in tensors.items()})), Rejection.WEIGHTS),
        (lambda path: _rewrite(path, lambda tensors: tensors.update({k: v.half() for k, v in tensors.items()})), Rejection.WEIGHTS),
        (lambda path: _rewrite(path, lambda tensors: tensors.pop("value_out.bias")), Rejection.WEIGHTS),
    ],
)
def test_what_is_sealed_is_judged_all_the_same(damage: Callable[[Path], object], kind: Rejection, tmp_path: Path) -> None:
    refusal = _refusal_after(damage, store(tmp_path / "p"))
    assert refusal.kind is kind
    str(refusal).encode()


def test_resealing_alone_is_no_damage(tmp_path: Path) -> None:
    path = store(tmp_path / "p")
    _rewrite(path, lambda tensors: _weigh(tensors, 1.5))
    assert load_policy(path).version != load_policy(store(tmp_path / "q")).version


def test_a_path_may_be_text(tmp_path: Path) -> None:
    path = store(tmp_path / "p")
    assert load_policy(str(path)).version == load_policy(path).version
    with pytest.raises(PolicyRejectedError) as refused:
        load_policy(str(tmp_path / "nowhere"))
    assert refused.value.path == tmp_path / "nowhere"


def test_registries_must_be_those_that_the_manifest_vouches_for(tmp_path: Path) -> None:
    other = Observing(Registries.standard(blueprints=["conv"]), LIMITS, STEPS_PER_EPOCH)
    with pytest.raises(PolicyRejectedError) as refused:
        load_policy(store(tmp_path / "p", observing=other))
    assert refused.value.kind is Rejection.DIGEST


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    policy = make_policy(0)
    next(iter(policy.parameters())).data.fill_(float("nan"))
    save_policy(tmp_path / "p", policy, OBSERVING, digests=DIGESTS, num_updates=0, source={})
    with pytest.raises(PolicyRejectedError, match="not finite") as refused:
        load_policy(tmp_path / "p")
    assert refused.value.kind is Rejection.WEIGHTS


def test_a_refusal_travels_between_processes(tmp_path: Path) -> None:
    error = PolicyRejectedError(tmp_path, Rejection.DIGEST, "other")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.path, copy.kind, copy.detail, str(copy)) == (tmp_path, Rejection.DIGEST, "other", str(error))
    unsound = pickle.loads(pickle.dumps(PolicyAnswerError("gnn_v1-1-0", "run", ("value", "confidence"))))
    assert unsound.not_finite == ("value", "confidence")
    assert "value, confidence" in str(unsound)
