"""Forward passes of a wrapped model: what stands at its slots is visited, also where a backward pass runs the model again."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.autograd import Variable

from esper.kasmina.wrapping.observe import describe
from esper.leyline.host import WrapError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True, slots=True)
class Post:
    """What is known of the value at one slot."""

    slot_id: str
    name: str
    shape: tuple[int, ...]
    """Of one sample, where the input has the example's shape."""
    channel_axis: int


class Revisits:
    """The hooks that are in place while a backward pass runs submodules again; those of one pass at a time."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def begin(self, handles: Sequence[RemovableHandle]) -> None:
        """Hold these hooks until the backward pass that is under way ends."""
        self.end()
        self._handles = list(handles)
        Variable._execution_engine.queue_callback(self.end)

    def end(self) -> None:
        """Remove them, also those that a backward pass has left behind by failing."""
        while self._handles:
            self._handles.pop().remove()


class Passing:
    """One forward pass: hands the value behind every slot to the visitor, and what it returns back to the model."""

    def __init__(
        self, posts: Sequence[Post], parts: Sequence[nn.Module], visit: Callable[[int, Tensor], Tensor], *, is_known_input: bool
    ) -> None:
        self._posts = posts
        self._parts = parts
        self._visit = visit
        self.is_known_input = is_known_input
        """Whether the input has the shape of the example."""
        self._visits = [0] * len(posts)
        self._thread = threading.get_ident()

    @contextmanager
    def visiting(self) -> Iterator[None]:
        """A block in which the model runs once."""
        handles = self._attach(self._take)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def visit_again(self, logits: Tensor, revisits: Revisits) -> None:
        """Let a backward pass from `logits` find the slots occupied too, where it runs a submodule again."""

        def begin(_: Tensor) -> None:
            self._thread = threading.get_ident()  # on a GPU another one than that of the forward pass
            revisits.begin(self._attach(self._retake))

        if logits.requires_grad:
            logits.register_hook(begin)

    def check_complete(self) -> None:
        """Refuse a pass that left a slot out."""
        missing = [f"{post.slot_id} ({post.name})" for post, count in zip(self._posts, self._visits, strict=True) if not count]
        if missing:
            raise WrapError(f"slots {', '.join(missing)}: the submodule did not run in this forward pass, as it did when it was wrapped")

    def _attach(self, hook: Callable[[int, Any], Tensor | None]) -> list[RemovableHandle]:
        def call(segment: int, _module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Tensor | None:
            """Another thread's pass over the same model is none of its business."""
            return hook(segment, output) if threading.get_ident() == self._thread else None

        return [part.register_forward_hook(partial(call, segment)) for segment, part in enumerate(self._parts)]

    def _take(self, segment: int, output: Any) -> Tensor:
        post = self._posts[segment]
        self._visits[segment] += 1
        if self._visits[segment] > 1:
            raise WrapError(
                f"slot {post.slot_id} ({post.name}): the submodule ran twice in one forward pass; it ran once when it was wrapped"
            )
        self._check_shape(post, output)
        return self._visit(segment, output)

    def _retake(self, segment: int, output: Any) -> Tensor:
        self._check_shape(self._posts[segment], output)
        return self._visit(segment, output)

    def _check_shape(self, post: Post, output: Any) -> None:
        is_plain = isinstance(output, Tensor) and not output.is_nested
        shape = tuple(output.shape[1:]) if is_plain else None
        if shape == post.shape:
            return
        is_alike = shape is not None and len(shape) == len(post.shape) and shape[post.channel_axis] == post.shape[post.channel_axis]
        if self.is_known_input or not is_alike:
            expected = f"[B, {', '.join(map(str, post.shape))}]"
            raise WrapError(
                f"slot {post.slot_id} ({post.name}): the submodule returned {describe(output)}, but {expected} when it was wrapped; "
                f"a slot needs one shape{nested_advice(output)}"
            )


def nested_advice(value: object) -> str:
    """What to do about a nested tensor; nothing about another value."""
    is_nested = isinstance(value, Tensor) and value.is_nested
    return ": make the nn.TransformerEncoder around it with enable_nested_tensor=False" if is_nested else ""
