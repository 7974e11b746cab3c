"""The prompt: image, instruction, text, closing line, ``[RET]``; defined here alone.

A :class:`PromptFormat` renders an item to a string, and the same rendering as a Jinja chat template, so that a plain
``SentenceTransformer`` reads exactly what PUMA reads. Truncation is decided here too: the *text* is cut, never the
closing line or ``[RET]``.

Source: docs/method.md "The embedding" (paper section 3): ``[image] + instruction + text + closing line + [RET]``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from puma.errors import ModelError
from puma.items.item import IMAGE, IMAGE_TEXT, TEXT

RET = "[RET]"
"""The added token whose final hidden state is the embedding."""

PROMPT_FILE = "puma_prompt.json"
"""The file in a model folder that holds its :class:`PromptFormat`."""

MOST_CONTROL_TOKENS = 256
"""More added special tokens than this (Gemma has thousands, unused) are not all kept apart from plain text."""

MAX_TEXT_TOKENS = 450
"""The recipe's limit on an item's own text, in tokens, instruction not counted."""


@dataclass(frozen=True)
class PromptFormat:
    """How one model's items are written out.

    The rendering is ``before + image + instruction + open + text + close[modality] + after + RET``, with ``separator``
    between image, instruction and text where both neighbours are there; without ``image_first`` the image stands
    directly
    before the text, inside what ``open`` opens.

    Args:
        before: what precedes everything (the chat template's head).
        image: the placeholder of one image.
        separator: between image, instruction and text.
        open: written before the content that the closing line refers to.
        close_text, close_image, close_both: the closing line for a text, an image, an image with a text.
        after: what follows the closing line (the chat template's turn to the assistant).
        seed: the string whose last token's embedding the ``[RET]`` row starts from; empty for the mean of all rows.
            With the token that would stand there in plain language, an untrained model already gives usable vectors.
        image_first: whether the image precedes the instruction (the recipe) or stands beside the text.
        max_text_tokens: limit on the item's own text, in tokens.
    """

    before: str = ""
    image: str = "<image>"
    separator: str = "\n"
    open: str = ""
    close_text: str = "\nSummarize above sentence in one word: "
    close_image: str = "\nSummarize above image in one word: "
    close_both: str = "\nSummarize above image and sentence in one word: "
    after: str = ""
    seed: str = ""
    image_first: bool = True
    max_text_tokens: int = MAX_TEXT_TOKENS

    def closing(self, modality: str) -> str:
        """The closing line of a modality."""
        return {TEXT: self.close_text, IMAGE: self.close_image, IMAGE_TEXT: self.close_both}[modality]

    def parts(self, modality: str, instruction: str | None = None) -> tuple[str, str]:
        """What stands before and after the item's own text, for one modality and instruction.

        Returns:
            ``(head, tail)``: the prompt is ``head + text + tail`` and ``tail`` ends in ``[RET]``.
        """
        instruction_part = instruction.strip() + self.separator if instruction and instruction.strip() else ""
        image = "" if modality == TEXT else self.image
        if image and (modality == IMAGE_TEXT or (instruction_part and self.image_first)):
            image += self.separator
        body = image + instruction_part + self.open if self.image_first else instruction_part + self.open + image
        return self.before + body, self.closing(modality) + self.after + RET

    def render(self, text: str | None, has_image: bool, instruction: str | None = None) -> str:
        """One item written out, untruncated.

        Examples:
            >>> PromptFormat().render("a red fox", has_image=False, instruction="Find an image.")
            'Find an image.\\na red fox\\nSummarize above sentence in one word: [RET]'
        """
        modality = (IMAGE_TEXT if text else IMAGE) if has_image else TEXT
        head, tail = self.parts(modality, instruction)
        return head + (text or "") + tail

    def chat_template(self, control: Sequence[str] = ()) -> str:
        """The same rendering as a Jinja chat template: a system message is the instruction, the user's message holds
        the image and text parts in any order.

        Args:
            control: the model's control tokens (:func:`control_tokens`): typed in a text or an instruction they get a
                space inside, as :meth:`puma.retriever.inputs.Inputs.clean` does it.
        """
        q = _jinja_string
        harmless = "".join(f" | replace({q(token)}, {q(token[0] + ' ' + token[1:])})" for token in control)
        follows = "ns.text or (ns.instruction | trim)" if self.image_first else "ns.text"
        image = (
            f"{{%- if ns.image -%}}{{{{- {q(self.image)} -}}}}"
            f"{{%- if {follows} -%}}{{{{- {q(self.separator)} -}}}}{{%- endif -%}}{{%- endif -%}}"
        )
        opened = f"{{{{- {q(self.open)} -}}}}"
        return (
            "{%- set ns = namespace(instruction='', text='', image=false) -%}"
            "{%- for message in messages -%}"
            "{%- if message['content'] is string -%}"
            "{%- if message['role'] == 'system' -%}{%- set ns.instruction = ns.instruction + message['content'] -%}"
            "{%- else -%}{%- set ns.text = ns.text + message['content'] -%}{%- endif -%}"
            "{%- else -%}"
            "{%- for part in message['content'] -%}"
            "{%- if part['type'] == 'image' -%}{%- set ns.image = true -%}"
            "{%- elif message['role'] == 'system' -%}{%- set ns.instruction = ns.instruction + part['text'] -%}"
            "{%- else -%}{%- set ns.text = ns.text + part['text'] -%}{%- endif -%}"
            "{%- endfor -%}"
            "{%- endif -%}"
            "{%- endfor -%}"
            + (
                f"{{%- set ns.text = ns.text{harmless} -%}}{{%- set ns.instruction = ns.instruction{harmless} -%}}"
                if harmless
                else ""
            )
            + f"{{{{- {q(self.before)} -}}}}"
            + (image if self.image_first else "")
            + "{%- if ns.instruction | trim -%}"
            + f"{{{{- (ns.instruction | trim) + {q(self.separator)} -}}}}"
            + "{%- endif -%}"
            + (opened if self.image_first else opened + image)
            + "{{- ns.text -}}"
            + f"{{%- if ns.image and ns.text -%}}{{{{- {q(self.close_both)} -}}}}"
            f"{{%- elif ns.image -%}}{{{{- {q(self.close_image)} -}}}}"
            f"{{%- else -%}}{{{{- {q(self.close_text)} -}}}}{{%- endif -%}}"
            f"{{{{- {q(self.after + RET)} -}}}}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def read(cls, folder: Path) -> PromptFormat:
        """The format in a retriever's folder; errors as :meth:`from_dict`."""
        return cls.from_dict(json.loads((folder / PROMPT_FILE).read_text(encoding="utf-8")))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PromptFormat:
        """The inverse of :meth:`to_dict`.

        Raises:
            ModelError: on a key this version does not know: the folder was written by a newer PUMA.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ModelError(
                f"the model's prompt has unknown fields {unknown}: it was saved by a newer version of PUMA"
            )
        return cls(**values)


OPEN_QUOTE = PromptFormat(
    before="",
    separator=" ",
    open='This : "',
    close_text='" means in one word:',
    close_image='" means in one word:',
    close_both='" means in one word:',
    seed='" means in one word:"',
    image_first=False,
)
"""For small bases: the closing line leaves a quotation mark open, so that the next token *is* the word. On the mini
base this doubled zero-shot retrieval against the one-word prompt (docs/log.md)."""

SHORT = PromptFormat(separator=" ", close_text=" :", close_image=" :", close_both=" :", seed=': "', image_first=False)
"""The least that can be read: content, a colon, ``[RET]``. For small bases that are trained, on hardware where every
token counts: half the tokens of :data:`OPEN_QUOTE` for a caption."""

PROMPTS = {"open-quote": OPEN_QUOTE, "short": SHORT}
"""Formats by name; ``chat`` is the model's own chat template (:func:`from_chat_template`)."""


def from_chat_template(processor: Any) -> PromptFormat:
    """The recipe's prompt inside a model's own chat template, whatever the family.

    The template is rendered around two sentinels and cut there, so no template is edited or copied.

    Raises:
        ModelError: if the processor has no chat template, or its template drops or reorders the content.
    """
    sentinel = "\u241fTEXT\u241f"
    content = [{"type": "image"}, {"type": "text", "text": sentinel}]
    try:
        rendered = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        plain = processor.apply_chat_template(
            [{"role": "user", "content": content[1:]}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template may raise anything through Jinja
        raise ModelError(
            f"the model's chat template cannot be used ({error}): give a PromptFormat of your own"
        ) from None
    if rendered.count(sentinel) != 1 or plain.count(sentinel) != 1:
        raise ModelError(
            "the model's chat template does not keep the user's text once: give a PromptFormat of your own"
        )
    head, after = rendered.split(sentinel)
    before, _ = plain.split(sentinel)
    if not head.startswith(before) or head == before:
        # Some templates put a blank or a newline between the role and a text but not an image.
        common = 0
        while common < min(len(head), len(before)) and head[common] == before[common]:
            common += 1
        before = before[:common]
    image = head[len(before) :].strip("\n")
    if not image:
        raise ModelError("the model's chat template writes nothing for an image: give a PromptFormat of your own")
    return PromptFormat(before=before, image=image, after=after)


def control_tokens(processor: Any) -> list[str]:
    """The strings that this model reads as control tokens, longest first: special tokens, the image's, ``[RET]``.

    Of a tokenizer with hundreds of added special tokens only those that have a role are named.
    """
    tokenizer = processor.tokenizer
    image = getattr(processor, "image_token", None) or "<image>"
    found = {*tokenizer.all_special_tokens, image, RET}
    added = {str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special}
    if len(added) <= MOST_CONTROL_TOKENS:
        found |= added
    return sorted((token for token in found if token.strip()), key=lambda token: (-len(token), token))


def with_special_tokens(tokenizer: Any, prompt: PromptFormat) -> PromptFormat:
    """The prompt with what the tokenizer would put before every text (BOS), and a tokenizer that adds nothing itself.

    A template may write BOS already, and a tokenizer may append EOS, which would then stand where ``[RET]`` must: last.
    So the prompt says all there is, and whoever tokenises it (this package, sentence-transformers) reads the same.

    Args:
        tokenizer: changed in place where it adds tokens; it is saved so.
        prompt: a format whose ``before`` may or may not begin with BOS.

    Raises:
        ModelError: the tokenizer goes on adding tokens at the end.
    """
    before, after = _added(tokenizer)
    if not before and not after:
        return prompt
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        for name in ("add_bos_token", "add_eos_token"):
            if name in getattr(tokenizer, "init_kwargs", {}):
                tokenizer.init_kwargs[name] = False
            if getattr(tokenizer, name, False):
                setattr(tokenizer, name, False)
        from tokenizers.processors import TemplateProcessing

        backend.post_processor = TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    if _added(tokenizer)[1]:
        raise ModelError(
            f"the tokenizer ({type(tokenizer).__name__}) appends {after} to every text and cannot be kept from it: "
            f"{RET} would not be the last token"
        )
    start = "".join(before)
    return prompt if prompt.before.startswith(start) else replace(prompt, before=start + prompt.before)


def _added(tokenizer: Any) -> tuple[list[str], list[str]]:
    """The tokens that a tokenizer puts before and after a text by itself."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
    named = tokenizer.convert_ids_to_tokens(whole)
    return named[:start], named[start + len(plain) :]


def _jinja_string(text: str) -> str:
    escaped = (
        text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    )
    return f"'{escaped}'"
