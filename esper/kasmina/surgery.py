"""Change a growing model and its optimizer as one: afterwards every trainable parameter is trained, exactly once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from types import TracebackType

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from esper.kasmina.model import MorphogeneticModel
    from esper.kasmina.structure import Structure


class GrowthError(RuntimeError):
    """A trainable parameter that no optimizer group holds, or more than one."""

    def __init__(self, missing: tuple[str, ...], repeated: tuple[str, ...]) -> None:
        super().__init__(missing, repeated)
        self.missing = missing
        self.repeated = repeated

    def __str__(self) -> str:
        return f"parameters in no optimizer group: {list(self.missing)}; in several: {list(self.repeated)}"


class GrowthTransaction:
    """A block in which a model may change.

        with GrowthTransaction(model, optimizer):
            model.apply(action, val_accuracy=…)

    On exit the optimizer follows by parameter name: a parameter whose name survives keeps its state, even if its tensor
    was replaced by one of the same shape; one that left, or no longer requires a gradient, leaves with its state; a new
    one joins `param_groups[group]` and so has that group's current learning rate, and schedulers stay valid. Parameters
    that the model does not know stay where they are. If the block or the check fails, model and optimizer are as before.

    Args:
        model: The model that changes.
        optimizer: Its optimizer; SGD and the Adam family need nothing else.
        group: Index of the group that new parameters join.
        keeps_numbers: The block writes no number that is there already, so that none need be copied; `restore` writes, while
            `apply`, `tick` and `prune_all` do not.
    """

    def __init__(self, model: MorphogeneticModel, optimizer: Optimizer, *, group: int = 0, keeps_numbers: bool = False) -> None:
        self._model = model
        self._optimizer = optimizer
        self._group = group
        self._keeps_numbers = keeps_numbers
        self._before: dict[str, nn.Parameter] = {}
        self._structure: Structure | None = None

    def __enter__(self) -> None:
        self._structure = self._model.structure(keeps_numbers=self._keeps_numbers)
        self._before = dict(self._model.named_parameters())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> Literal[False]:
        assert self._structure is not None
        if error is not None:
            self._model.reinstate(self._structure)
            return False
        after = dict(self._model.named_parameters())
        try:
            groups = self._regroup(after, self._structure.trainable)
            _check(after, groups)
        except GrowthError:
            self._model.reinstate(self._structure)
            raise
        self._commit(groups, after)
        return False

    def _regroup(self, after: dict[str, nn.Parameter], trainable_before: frozenset[Tensor]) -> list[list[Tensor]]:
        """Parameters of every group as they should be; nothing is changed yet."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self._before.items()}
        groups: list[list[Tensor]] = []
        for group in self._optimizer.param_groups:
            kept: list[Tensor] = []
            for parameter in group["params"]:
                name = names.get(parameter)
                heir = parameter if name is None else after.get(name)
                if heir is not None and heir.requires_grad:
                    kept.append(heir)
            groups.append(kept)
        was_trainable = {name for name, parameter in self._before.items() if parameter in trainable_before}
        groups[self._group] += [p for name, p in after.items() if p.requires_grad and name not in was_trainable]
        return groups

    def _commit(self, groups: list[list[Tensor]], after: dict[str, nn.Parameter]) -> None:
        state: dict[Tensor, Any] = self._optimizer.state
        heirs: dict[Tensor, nn.Parameter | None] = {parameter: after.get(name) for name, parameter in self._before.items()}
        for parameter in [p for p in state if p in heirs]:
            heir = heirs[parameter]
            if heir is parameter and parameter.requires_grad:
                continue
            inherited = state.pop(parameter)
            if heir is not None and heir.requires_grad and heir.shape == parameter.shape:
                state[heir] = inherited
        names: dict[Tensor, str] = {parameter: name for name, parameter in after.items()}
        for group, parameters in zip(self._optimizer.param_groups, groups, strict=True):
            if "param_names" in group:
                known = dict(zip(group["params"], group["param_names"], strict=True))
                group["param_names"] = [known.get(p) or names[p] for p in parameters]
            group["params"] = parameters


def _check(after: dict[str, nn.Parameter], groups: list[list[Tensor]]) -> None:
    places = Counter(parameter for group in groups for parameter in group)
    counts = {name: places[parameter] for name, parameter in after.items() if parameter.requires_grad}
    missing = tuple(name for name, count in counts.items() if count == 0)
    repeated = tuple(name for name, count in counts.items() if count > 1)
    if missing or repeated:
        raise GrowthError(missing, repeated)
