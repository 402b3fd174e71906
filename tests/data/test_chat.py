import json
from dataclasses import replace
from pathlib import Path

import pytest

from smf_jax.data.chat import ChatTemplate, parse_arguments, read_templates
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


def test_templates_may_have_files_of_their_own_and_be_several(tmp_path):
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    for stored in (named, {"default": "d", "tool_use": "t"}):
        tokenizer = load_tokenizer(write(tmp_path, chat_template=stored))
        assert tokenizer.template.texts == {"default": "d", "tool_use": "t"}
    tokenizer.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").chat == tokenizer.chat
    assert tokenizer.template.select() == "d"
    assert tokenizer.template.select("tool_use") == "t"
    # As transformers chooses: tools are for the template that is made for them.
    assert tokenizer.with_chat_arguments({"tools": []}).template.select() == "t"
    (tmp_path / "chat_template.jinja").write_text("own")
    assert load_tokenizer(tmp_path).template.texts == {"default": "own"}
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("r")
    assert load_tokenizer(tmp_path).template.texts == {"default": "own", "rag": "r"}
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="no chat template is named 'default', only rag"):
        load_tokenizer(tmp_path).encode_chat(MESSAGES)


@pytest.mark.parametrize("stored", [7, [7], ["text"], {"default": 7}, [{"name": "default"}]])
def test_what_is_no_template_is_refused_with_its_file(stored, tmp_path):
    with pytest.raises(
        ValueError, match=r"tokenizer_config\.json: chat_template=.*expected a text"
    ):
        read_templates(tmp_path, stored, {})
    assert read_templates(tmp_path, "", {}) is None


def test_arguments_reach_the_template_and_tools_and_documents_are_always_named():
    pytest.importorskip("jinja2", reason="needs jinja2")
    text = (
        "{{ tools is none }} {{ documents is none }} "
        "{% if enable_thinking is defined and not enable_thinking %}no {% endif %}thought"
    )
    assert ChatTemplate(text).render(MESSAGES) == "True True thought"
    arguments = parse_arguments('{"enable_thinking": false, "documents": [{"text": "x"}]}')
    template = ChatTemplate(text, arguments=arguments)
    assert template.render(MESSAGES) == "True False no thought"
    tokenizer = train_tokenizer(TEXTS, 300)
    assert tokenizer.with_chat_arguments({}) is tokenizer
    with pytest.raises(ValueError, match="has no chat template"):
        tokenizer.with_chat_arguments(arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{thinking: 1}", "no JSON .*give an object, as in '{\"enable_thinking\": false}'"),
        ("[1]", "expected a JSON object"),
        ('{"messages": []}', "messages cannot be given"),
        ('{"tools": {"name": "x"}}', "tools: expected a list of objects"),
    ],
)
def test_arguments_that_are_none_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(text)


def test_a_last_message_may_go_on():
    pytest.importorskip("jinja2", reason="needs jinja2")
    said = [*MESSAGES, {"role": "assistant", "content": "It is "}]
    plain = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
    begun = "<system>Be short.<end><user>Where is the cat?<end><assistant>It is"
    assert ChatTemplate(plain).render(said, False, True) == begun + " "
    stripped = plain.replace("m.content", "m.content | trim")
    assert ChatTemplate(stripped).render(said, False, True) == begun
    with pytest.raises(ValueError, match="leaves out the last message"):
        ChatTemplate("nothing").render(said, False, True)


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
    with pytest.raises(ValueError, match="no message to render"):
        template.render([])
    with pytest.raises(ValueError, match="does not take these messages"):
        ChatTemplate("{{ 1 // 0 }}").render(MESSAGES)
    with pytest.raises(ValueError, match="does not take these messages"):
        ChatTemplate("{% for %}").render(MESSAGES)
    with pytest.raises(ValueError, match="does not take these messages.*unsafe|not safe"):
        ChatTemplate("{{ messages.__class__.__mro__ }}").render(MESSAGES)


def test_without_jinja2_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(ValueError, match="pip install 'jinja2>=3.1'"):
        ChatTemplate("{{ messages }}").render(MESSAGES)


# Each with what transformers 5.24 renders `SAID` to, given `GIVEN` too.
SAID = [
    {"role": "user", "content": "Hi <&>", "name": None},
    {"role": "assistant", "content": "é", "reasoning": "hm"},
]
GIVEN = {"enable_thinking": False, "tools": [{"name": "f", "of": ["é", 1]}]}
RENDERED = {
    "{% for m in messages %}\n  {% if m.role == 'assistant' %}\n{% generation %}\n"
    "{%- set x = 1 %}{{ m.content }}\n{% endgeneration %}\n  {% endif %}{{ x }}{% endfor %}": "é\n",
    "{% for m in messages %}{% generation -%}  {{ m.role }}  {%- endgeneration %},{% endfor %}": (
        "user,assistant,"
    ),
    "{{ tools | tojson }}{{ messages | tojson(indent=1) }}": (
        '[{"name": "f", "of": ["é", 1]}][\n {\n  "role": "user",\n  "content": "Hi <&>"\n },\n {\n'
        '  "thinking": "hm",\n  "role": "assistant",\n  "content": "é",\n  "reasoning": "hm",\n'
        '  "reasoning_content": "hm"\n }\n]'
    ),
    "{{ tools | tojson(separators=(',', ':'), sort_keys=True, ensure_ascii=True) }}": (
        '[{"name":"f","of":["\\u00e9",1]}]'
    ),
    "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}": "<|begin|><|end|><|pad|>",
    "{{ enable_thinking }}{{ documents }}{{ add_generation_prompt }}": "FalseNoneTrue",
    "{% set n = namespace(k=0) %}{% for m in messages %}{% set n.k = n.k + 1 %}{% continue %}"
    "x{% endfor %}{{ n.k }}{{ dict(a=1) }}": "2{'a': 1}",
    "{{ strftime_now('%Y') | length }}": "4",
}


@pytest.mark.parametrize("template", RENDERED)
def test_templates_are_rendered_as_transformers_renders_them(template, tmp_path):
    pytest.importorskip("jinja2", reason="needs jinja2")
    tokenizer = load_tokenizer(write(tmp_path, chat_template=template))
    assert tokenizer.with_chat_arguments(GIVEN).template.render(SAID) == RENDERED[template]


@pytest.mark.parametrize("template", RENDERED)
def test_live_templates_are_rendered_alike(template, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs it: make test-parity")
    theirs = transformers.AutoTokenizer.from_pretrained(write(tmp_path, chat_template=template))
    found = theirs.apply_chat_template(SAID, add_generation_prompt=True, tokenize=False, **GIVEN)
    assert found == RENDERED[template]


def test_live_ids_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs it: make test-parity")
    write(tmp_path, chat_template=TEMPLATE)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    for open_answer in (True, False):
        found = theirs.apply_chat_template(MESSAGES, add_generation_prompt=open_answer)
        found = found if isinstance(found, list) else found["input_ids"]
        assert list(found) == ours.encode_chat(MESSAGES, open_answer)
    assert theirs("The cat sat").input_ids == ours.encode_prompt("The cat sat")
