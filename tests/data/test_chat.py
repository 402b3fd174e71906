import json
from dataclasses import replace
from pathlib import Path

import pytest

from smf_jax.data.chat import ChatTemplate, parse_template
from smf_jax.data.tokenizer import load_tokenizer, train_tokenizer

TEXTS = ["The cat sat on the mat.", "Where does the cat sleep?"] * 20
MESSAGES = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Where is the cat?"},
]
# With what templates of the hub use: loops, conditions, blocks on lines of their own, names.
TEMPLATE = """{{ bos_token }}
{%- for message in messages %}
    {% if message.role == 'tool' %}
        {{- raise_exception('no tools here') }}
    {% endif %}
    {{- '<' + message['role'] + '>' + message['content'] | trim + eos_token }}
    {% if loop.index > 5 %}{% break %}{% endif %}
{% endfor %}
{% if add_generation_prompt %}
    {{- '<assistant>' }}
{%- endif %}
"""


def write(directory: Path, **config) -> Path:
    train_tokenizer(TEXTS, 300).save(directory)
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return directory


def test_a_conversation_is_rendered_and_encoded(tmp_path):
    pytest.importorskip("jinja2", reason="needs jinja2")
    tokenizer = load_tokenizer(write(tmp_path, chat_template=TEMPLATE))
    expected = "<system>Be short.<|end|>\n<user>Where is the cat?<|end|>\n<assistant>"
    assert tokenizer.chat is not None
    assert tokenizer.chat.render(MESSAGES) == f"<|begin|>{expected}"
    assert tokenizer.chat.render(MESSAGES, open_answer=False).endswith("cat?<|end|>\n")
    ids = tokenizer.encode_chat(MESSAGES)
    assert tokenizer.bos is not None and tokenizer.eos is not None
    assert (ids[0], ids.count(tokenizer.bos), ids.count(tokenizer.eos)) == (1, 1, 2)
    # This tokenizer sets a space behind every special token.
    assert tokenizer.decode(ids).split() == expected.replace("<|end|>", "").split()


def test_templates_may_have_a_file_of_their_own_and_be_several(tmp_path):
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    tokenizer = load_tokenizer(write(tmp_path, chat_template=named))
    assert tokenizer.chat is not None
    assert tokenizer.chat.text == "d"
    (tmp_path / "chat_template.jinja").write_text("own")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.chat is not None
    assert tokenizer.chat.text == "own"
    assert parse_template([{"name": "tools", "template": "t"}], {}) is None


def test_the_template_is_saved_with_the_tokenizer(tmp_path):
    first = load_tokenizer(write(tmp_path / "first", chat_template=TEMPLATE))
    replace(first, stops=(2, 1)).save(tmp_path / "second")
    second = load_tokenizer(tmp_path / "second")
    assert second.chat == first.chat
    assert second.stops == (2, 1)


def test_what_cannot_be_rendered_is_refused(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 300)
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        tokenizer.encode_chat(MESSAGES)
    pytest.importorskip("jinja2", reason="needs jinja2")
    template = load_tokenizer(write(tmp_path, chat_template=TEMPLATE)).chat
    assert template is not None
    with pytest.raises(ValueError, match="does not take these messages: no tools here"):
        template.render([{"role": "tool", "content": "x"}])
    with pytest.raises(ValueError, match="does not take these messages"):
        ChatTemplate("{% for %}").render(MESSAGES)
    with pytest.raises(ValueError, match="does not take these messages.*unsafe|not safe"):
        ChatTemplate("{{ messages.__class__.__mro__ }}").render(MESSAGES)


def test_without_jinja2_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(ValueError, match="pip install 'jinja2>=3.1'"):
        ChatTemplate("{{ messages }}").render(MESSAGES)


def test_live_ids_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs it: make test-parity")
    write(tmp_path, chat_template=TEMPLATE, tokenizer_class="PreTrainedTokenizerFast")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    for open_answer in (True, False):
        found = theirs.apply_chat_template(MESSAGES, add_generation_prompt=open_answer)
        found = found if isinstance(found, list) else found["input_ids"]
        assert list(found) == ours.encode_chat(MESSAGES, open_answer)
    assert theirs("The cat sat").input_ids == ours.encode_prompt("The cat sat")
