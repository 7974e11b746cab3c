"""One backbone as teacher and student: the whole depth without adapters, the kept layers with them, in one forward.

What is exchanged in the live model for that, and by what private names: :mod:`puma.training.teacher.swapping`. Source:
the paper, section 3.1, whose authors hold a second full model for the teacher.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from puma.errors import InputError, ModelError
from puma.pruning import decoder_of, prune
from puma.retriever.pooling import last_token_state
from puma.training.teacher.swapping import (
    SWITCH,
    adapted_modules,
    adapter_parameters,
    adapters_off,
    at_last_token,
    eval_mode,
    remember_deepstack,
    swapped_forward,
    swapped_layers,
)

Features = Mapping[str, Any]
Run = Callable[[dict[str, Any]], torch.Tensor]

PROJECTOR = "multi_modal_projector"
"""The one module outside the decoder that training may move (``projector_rate``)."""


class DualDepth:
    """Cuts a model to its student and keeps the deep layers for the teacher, so that one set of weights serves both.

    After this the model *is* the pruned model: it takes adapters, trains, saves and loads as any other, and the deep
    layers are no part of its parameters. A step of :meth:`states` runs token embeddings, vision tower and projector
    once, then the decoder twice: the teacher over all layers under ``no_grad`` with adapters off and in eval mode, the
    student over the kept layers as they are. No key or value is cached or shared.

    What may be trained: adapters on the kept decoder layers (peft's LoRA and kin), the ``[RET]`` row, and the projector
    (``multi_modal_projector``), of which the teacher keeps a frozen copy. Kept layers trained in full are refused:
    they are the teacher's too, which would move with its student. Read targets from a store there
    (:mod:`puma.training.teacher.store`).

    The deep layers stay whole on each process (DDP and FSDP2 do not see them), in the type they were loaded in while
    a step runs under autocast; without autocast they take the embeddings' type at the first step.

    Args:
        model: the unpruned base, with or without an LM head or peft's wrapper. Cut in place.
        layers: how many decoder layers the student keeps, 1..L.
        keep_last: the student keeps the first ``layers - 1`` and the very last.
        ret_id: the id of ``[RET]``, needed if its embedding is trained: the teacher reads the row's value of now.
        autocast: the type that the teacher computes in; None: as the student.

    Raises:
        InputError: ``layers`` out of range.
        ModelError: the model has no decoder that can be cut.
    """

    def __init__(
        self,
        model: Any,
        layers: int,
        *,
        keep_last: bool = False,
        ret_id: int | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        wrapped = getattr(model, "get_base_model", None)  # peft's wrapper has one
        self.model = wrapped() if wrapped is not None else model
        self.body = self.model.base_model  # without the LM head
        self.ret_id, self.autocast = ret_id, autocast
        self._depth, self._decoder = layers, decoder_of(self.model)
        every, whole = list(self._decoder.layers), _depth_fields(self._decoder.config)
        deepstack = remember_deepstack(self.model)
        prune(self.model, layers, keep_last=keep_last)
        deepstack()  # the teacher reads all of DeepStack's features; the student's layers take theirs by number
        kept = {id(layer) for layer in self._decoder.layers}
        self._all = nn.ModuleList(every)
        self._deep = [layer.requires_grad_(False).eval() for layer in every if id(layer) not in kept]
        cut = _depth_fields(self._decoder.config)
        self._fields = {name: (whole[name], cut[name]) for name in cut if whole.get(name) != cut[name]}
        self._frozen_row = self._row()
        self._projector: nn.Module | None = copy.deepcopy(getattr(self.body, PROJECTOR, None))
        if self._projector is not None:
            self._projector.requires_grad_(False).eval()
        self._own: list[nn.Module] = []  # the student's decoder, and those of its modules that adapters are on
        self._adapted: list[Any] = []
        self._checked, self._merge_checked, self._projects = 0, False, False
        self._taken = {
            name
            for name, parameter in inspect.signature(self.body.forward).parameters.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        }

    def states(self, features: Features, run: Run | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The states at ``[RET]`` after the final norm of one padded batch, raw, in fp32.

        Args:
            features: the model's inputs; ``input_ids`` and ``attention_mask`` [n, length] among them. Keys that the
                model does not take are left out.
            run: how the student's forward is reached, from features to token states [n, length, dim]: with a pipeline
                or a distributed wrapper around the model, the call of that wrapper. It must run the model once. None
                calls the model itself.

        Returns:
            ``(student [n, dim], teacher [n, dim])``; only the first has a gradient.

        Raises:
            InputError: weights of the teacher are being trained; the message names them.
            ModelError: the model was cut already, or ``run`` did not reach it.
        """
        with self._both(features, student=True) as taught:
            hidden = self._forward(features) if run is None else run(dict(features))
        if len(taught) != 1:
            raise ModelError(f"run called the model {len(taught)} times: a step's forward reaches its decoder once")
        mask = features["attention_mask"]
        return last_token_state(hidden, mask).float(), taught[0]

    def teacher_states(self, features: Features) -> torch.Tensor:
        """The teacher's states alone, [n, dim], fp32, without gradient."""
        with self._both(features, student=False) as taught, torch.no_grad():
            self._forward(features)
        return taught[0]

    def student_model(self) -> Any:
        """The pruned model, adapters included; as it was given, so an LM head stays."""
        return self.model

    def cut(self, model: Any = None) -> Any:
        """Let go of the deep layers and return the pruned model, which is :func:`puma.prune`'s to the last weight.

        Args:
            model: what is returned, where training left the student's weights in another object than it was given.
        """
        self.model = self.model if model is None else model
        prune(self.model, self._depth)  # all kept layers: cuts what is left of DeepStack
        self._all, self._deep, self._projector = nn.ModuleList(), [], None
        return self.model

    def check(self) -> None:
        """Refuse to go on if what is trained moves the teacher. Called by the first step.

        Raises:
            InputError: names the weights and the remedy.
        """
        table, projector = self.model.get_input_embeddings(), getattr(self.body, PROJECTOR, None)
        allowed = {id(p) for p in adapter_parameters(self._decoder.layers)}
        allowed |= {id(p) for p in projector.parameters()} if projector is not None else set()
        rows = {id(p) for p in table.parameters()} | {id(p) for p in adapter_parameters(table)}
        moving = {name: p for name, p in self.model.named_parameters() if p.requires_grad and id(p) not in allowed}
        wrong = [name for name, p in moving.items() if id(p) not in rows]
        if wrong:
            shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            raise InputError(
                f"teacher='shared' trains {shown}: those weights are the teacher's too, which would move with its "
                "student; train adapters (lora_rank > 0), or take the teacher's states from a store (teacher='store')"
            )
        if moving and self.ret_id is None:
            raise InputError(
                f"teacher='shared' trains token embeddings ({', '.join(moving)}) and ret_id=None: give the id of "
                "[RET], the one row that may be trained, so that the teacher reads its frozen value"
            )
        self._projects = projector is not None and any(p.requires_grad for p in projector.parameters())
        self._own = list(self._decoder.modules())
        self._adapted = adapted_modules(self._decoder)
        for layer in self._deep:
            for module in adapted_modules(layer):  # put on before the cut; these layers are the teacher's alone
                setattr(module, SWITCH, True)
        self._checked = self._size()

    def _size(self) -> int:
        """Changes when adapters are put on or taken off, at a hundredth of the cost of looking everywhere."""
        layers = self._decoder.layers
        return 1 + sum(1 for layer in {id(x): x for x in (layers[0], layers[-1])}.values() for _ in layer.modules())

    def _forward(self, features: Features) -> torch.Tensor:
        taken = {name: value for name, value in features.items() if name in self._taken}
        return self.body(**{**taken, "use_cache": False}).last_hidden_state

    @contextlib.contextmanager
    def _both(self, features: Features, *, student: bool) -> Iterator[list[torch.Tensor]]:
        """Within the block the decoder's forward runs the teacher first; its states are appended to what is yielded."""
        if not len(self._all):
            raise ModelError("this DualDepth was cut: its teacher is gone; make another of the base")
        if self._checked != self._size():
            self.check()
        decoder, own = self._decoder, self._decoder.forward
        taught: list[torch.Tensor] = []
        projected: list[Any] = []

        def forward(*args: Any, **kwargs: Any) -> Any:
            if args:  # by name, so that input_ids can give way to embeddings
                kwargs = {**dict(zip(inspect.signature(own).parameters, args, strict=False)), **kwargs}
            # A model may hand its decoder a cache of its own making; the second pass would attend to the first's keys.
            kwargs |= {"use_cache": False, "past_key_values": None}
            if kwargs.get("inputs_embeds") is None:
                kwargs["inputs_embeds"] = decoder.get_input_embeddings()(kwargs.pop("input_ids"))
            taught.append(self._teach(own, kwargs, features, projected))
            if not student:
                return _Hidden(taught[-1])
            return own(**kwargs)

        with contextlib.ExitStack() as stack:
            if self._projects:
                hook = getattr(self.body, PROJECTOR).register_forward_hook(
                    lambda _, args, out: projected.append((args, out))
                )
                stack.callback(hook.remove)
            stack.enter_context(swapped_forward(decoder, forward))
            yield taught

    def _teach(self, own: Any, kwargs: dict[str, Any], features: Features, projected: list[Any]) -> torch.Tensor:
        """The teacher's states [n, dim]: all layers, no adapters, frozen [RET] row and projector."""
        embeds, mask = kwargs["inputs_embeds"].detach(), features["attention_mask"]
        kind = embeds.device.type
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        if self.autocast is not None:
            enabled, dtype = True, self.autocast
        with (
            torch.no_grad(),
            torch.autocast(kind, dtype=dtype, enabled=enabled),
            self._as_teacher(mask),
        ):
            self._place_deep(embeds, keep_type=enabled)
            embeds = self._frozen_inputs(embeds, features["input_ids"], projected)
            hidden = own(**{**kwargs, "inputs_embeds": embeds}).last_hidden_state
            return last_token_state(hidden, mask).float()

    @contextlib.contextmanager
    def _as_teacher(self, mask: torch.Tensor) -> Iterator[None]:
        last = getattr(self._all[-1], "mlp", None)
        with contextlib.ExitStack() as stack:
            whole = {name: value for name, (value, _) in self._fields.items()}
            stack.enter_context(swapped_layers(self._decoder, self._all, whole))
            stack.enter_context(eval_mode(self._own))
            stack.enter_context(adapters_off(self._adapted))
            if last is not None and "forward" not in last.__dict__:
                stack.enter_context(swapped_forward(last, at_last_token(last.forward, mask)))
            yield

    def _place_deep(self, like: torch.Tensor, *, keep_type: bool) -> None:
        """The deep layers follow the model's device, and its type where no autocast bridges the two."""
        for layer in self._deep:
            weight = next(layer.parameters())
            if weight.device != like.device or (not keep_type and weight.dtype != like.dtype):
                layer.to(device=like.device, dtype=None if keep_type else like.dtype)

    def _frozen_inputs(self, embeds: torch.Tensor, ids: torch.Tensor, projected: list[Any]) -> torch.Tensor:
        if self._frozen_row is not None:
            ret = (ids == self.ret_id).unsqueeze(-1)  # [n, length, 1]
            embeds = torch.where(ret, self._frozen_row.to(embeds), embeds)
        if self._projector is not None and projected:  # trained, and an image was seen
            config = self.model.config
            token = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
            places = ids == token
            (args, trained), width = projected[-1], embeds.shape[-1]
            if not self._merge_checked and not torch.equal(
                trained.detach().reshape(-1, width).to(embeds.dtype), embeds[places]
            ):
                raise ModelError(
                    f"{type(self.model).__name__} changes what its projector gives before the decoder reads it: with "
                    "teacher='shared' leave the projector frozen (projector_rate=0)"
                )
            self._merge_checked = True
            self._projector.to(args[0].device)
            frozen = self._projector(*args).reshape(-1, width)
            embeds = embeds.masked_scatter(places.unsqueeze(-1), frozen.to(embeds.dtype))
        return embeds

    def _row(self) -> torch.Tensor | None:
        if self.ret_id is None:
            return None
        table = self.model.get_input_embeddings()
        with torch.no_grad():  # through the module: Gemma3 scales what it looks up
            return table(torch.tensor([self.ret_id], device=next(table.parameters()).device))[0].clone()


class _Hidden:
    """What a decoder's caller reads of its output, where only the teacher ran."""

    def __init__(self, state: torch.Tensor) -> None:
        self.last_hidden_state = state
        self.past_key_values = self.hidden_states = self.attentions = None


def _depth_fields(config: Any) -> dict[str, Any]:
    return {name: copy.copy(value) for name, value in config.__dict__.items()}
