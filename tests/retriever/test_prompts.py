"""The prompt as a string and as a chat template say the same."""

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puma.errors import ModelError
from puma.retriever.prompts import OPEN_QUOTE, RET, PromptFormat, from_chat_template

CHATML = PromptFormat(before="<|im_start|>user\n", after="<|im_end|>\n<|im_start|>assistant\n")
words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(
    str.strip
)


@given(text=st.none() | words, image=st.booleans(), instruction=st.none() | words, which=st.integers(0, 2))
def test_template_equals_render(text, image, instruction, which):
    if text is None and not image:
        return
    prompt = (PromptFormat(), OPEN_QUOTE, CHATML)[which]
    content = ([{"type": "image"}] if image else []) + ([{"type": "text", "text": text}] if text else [])
    messages = [{"role": "user", "content": content}]
    if instruction:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": instruction}]})
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(prompt.chat_template())
    assert template.render(messages=messages) == prompt.render(text, image, instruction)


def test_the_recipes_order():
    assert CHATML.render("a fox", True, "Find it.") == (
        "<|im_start|>user\n<image>\nFind it.\na fox\nSummarize above image and sentence in one word: "
        "<|im_end|>\n<|im_start|>assistant\n[RET]"
    )
    assert OPEN_QUOTE.render(None, True, "Find it.") == 'Find it. This : "<image>" means in one word:[RET]'


@pytest.mark.parametrize("prompt", [PromptFormat(), OPEN_QUOTE, CHATML])
def test_round_trip_and_one_ret(prompt):
    assert PromptFormat.from_dict(prompt.to_dict()) == prompt
    assert prompt.render("x", True, "y").endswith(RET)
    assert prompt.render("x", True, "y").count(RET) == 1


def test_a_newer_folder_is_refused_by_name():
    with pytest.raises(ModelError, match="colour"):
        PromptFormat.from_dict({**PromptFormat().to_dict(), "colour": 1})


class FakeTemplate:
    """A processor's face: a real Jinja template behind apply_chat_template."""

    def __init__(self, source: str) -> None:
        self.template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source)

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return self.template.render(messages=messages, add_generation_prompt=add_generation_prompt)


QWEN_LIKE = (
    "<|im_start|>system\nYou help.<|im_end|>\n{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
    "{% if c.type == 'image' %}<|v|><|pad|><|/v|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_models_own_template_is_cut_around_the_content():
    prompt = from_chat_template(FakeTemplate(QWEN_LIKE))
    assert prompt.image == "<|v|><|pad|><|/v|>"
    assert prompt.before.endswith("<|im_start|>user\n")
    assert prompt.after == "<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "source", ["{{ nothing.at.all }}", "constant", "{% for m in messages %}{{ m.content[-1].text }}{% endfor %}"]
)
def test_templates_that_lose_content_are_refused(source):
    with pytest.raises(ModelError, match="PromptFormat"):
        from_chat_template(FakeTemplate(source))
