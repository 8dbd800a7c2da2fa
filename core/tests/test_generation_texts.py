"""Text as it comes from a generator: whole characters, stop strings, chats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from letters import write_letters
from optimum_core.errors import InputError, UnavailableError
from optimum_core.generation.decoder_session import Decoder
from optimum_core.generation.settings import Settings
from optimum_core.generation.text import TextCodec, TextStream, generate_texts, read_codec, stream_texts
from optimum_core.plugins import manager
from optimum_core.testing.decoders import eager_decoder
from optimum_core.types import LastPiece


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer of 256 tokens and two special ones, with a chat template."""
    made = tmp_path_factory.mktemp("tokenizer")
    template = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}{% endfor %}[you]"
    write_letters(made, template, eos_token={"__type": "AddedToken", "content": "</s>"})
    return made


def streamed(codec: TextCodec, text: str, *stops: str) -> tuple[list[str], TextStream]:
    stream = TextStream(codec=codec, stops=stops)
    pieces = []
    for token in codec.tokenizer.encode(text).ids:
        pieces.append(stream.put(token))
        if stream.ended:
            break
    return [*pieces, stream.finish(is_complete=False)], stream


def test_text_comes_in_whole_characters(folder: Path) -> None:
    codec = read_codec(folder, "model")
    pieces, _ = streamed(codec, "naïve 猫!")
    assert "".join(pieces) == "naïve 猫!"
    assert not any("\ufffd" in piece for piece in pieces)
    assert "" in pieces  # the first byte of two or three


def test_stop_strings_are_not_shown_even_in_part(folder: Path) -> None:
    codec = read_codec(folder, "model")
    pieces, stream = streamed(codec, "one END two", "END", "never")
    assert ("".join(pieces), stream.ended) == ("one ", True)
    pieces, stream = streamed(codec, "one EN", "END")
    assert ("".join(pieces), stream.ended) == ("one EN", False)  # held back, then shown at the end


def test_a_chat_goes_through_the_template(folder: Path) -> None:
    codec = read_codec(folder, "model")
    chat = [{"role": "user", "content": " hi "}]
    assert codec.render(chat) == "<s>[user]hi[you]"
    ids, mask = codec.encode([chat, "abc"], pad=0)
    assert ids.shape == mask.shape and mask.sum(1).tolist() == [len(ids[0]), 3]
    assert codec.decode(ids[0]) == "[user]hi[you]"
    with pytest.raises(UnavailableError, match="no chat template"):
        TextCodec(who="model", tokenizer=codec.tokenizer).encode([chat], 0)
    with pytest.raises(InputError, match="empty"):
        codec.encode([""], 0)


def test_a_template_that_fails_on_a_chat_says_so(folder: Path) -> None:
    codec = read_codec(folder, "model")
    codec = TextCodec(who="model", tokenizer=codec.tokenizer, template="{{ '[you]' + messages[0]['content'] }}")
    with pytest.raises(InputError, match="template refuses the messages"):
        codec.render([{"role": "user", "content": [{"type": "text", "text": "hi"}]}])


_SAYS = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
_CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]


@pytest.mark.parametrize(
    ("template", "chat"),
    [
        (_SAYS + "{% if add_generation_prompt %}[you]{% endif %}", _CHAT),
        ("{% if tools is not none %}{{ tools | tojson }}{% endif %}{{ documents }}" + _SAYS, _CHAT),
        ("{% for m in messages %}{% if 'tool_calls' in m %}calls{% endif %}{{ m.content }}{% endfor %}",
         [{"role": "user", "content": "a", "tool_calls": None}, {"role": "assistant", "content": None}]),
        ("{% for m in messages %}{% set a = 1 %}{% generation %}{% set a = 2 %}{{ m.content }}{% endgeneration %}"
         "{{ a }}{% endfor %}", _CHAT),
        ("{{ messages | tojson(separators=(',', ':'), sort_keys=true, ensure_ascii=true) }}",
         [{"role": "user", "content": "<é>'"}]),
        ("{% for m in messages %}{{ m.reasoning_content }} {{ m.thinking }}{{ m.content }}{% endfor %}",
         [{"role": "assistant", "content": "a", "reasoning": "b"}, {"role": "assistant", "thinking": "c"}]),
        ("{% for m in messages %}{% break %}{% endfor %}{{ image_token }}{{ pad_token }}", _CHAT),
    ],
)  # fmt: skip
def test_a_template_is_rendered_as_transformers_does(template: str, chat: list[Any], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_letters(tmp_path, template, extra_special_tokens={"image_token": "</s>"}, add_bos_token=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    codec = read_codec(tmp_path, "model")
    want = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert want and codec.render(chat) == want
    assert codec.ids_of(chat) == tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]


def test_older_tokenizers_name_their_special_tokens_in_a_file_of_their_own(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_letters(tmp_path, _SAYS, bos_token=None)
    assert read_codec(tmp_path, "model").render(_CHAT[1:]) == "[user]What?"
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": {"content": "<s>"}}')
    want = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(_CHAT[1:], tokenize=False)
    assert read_codec(tmp_path, "model").render(_CHAT[1:]) == want == "<s>[user]What?"


def test_of_several_templates_the_one_for_plain_chats_is_taken(tmp_path: Path) -> None:
    named: Any = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": _SAYS}]
    write_letters(tmp_path, named)
    assert read_codec(tmp_path, "model").render(_CHAT[1:]) == "<s>[user]What?"
    write_letters(tmp_path, named[:1])
    assert read_codec(tmp_path, "model").template is None


def test_a_chat_of_no_message_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="no message"):
        read_codec(folder, "model").render([])


def test_special_tokens_in_a_text_are_other_text_where_the_tokenizer_says_so(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for splits in (True, False):
        write_letters(tmp_path, _SAYS, split_special_tokens=splits)
        want = AutoTokenizer.from_pretrained(tmp_path)("a</s>b")["input_ids"]
        assert read_codec(tmp_path, "model").ids_of("a</s>b") == want
        assert len(want) == (6 if splits else 3)


def test_rows_of_a_batch_end_by_themselves(folder: Path) -> None:
    """At a stop string, and the others go on; together, as one by one."""
    codec, drives = read_codec(folder, "model"), Decoder(eager_decoder("llama"), manager().binder)
    vocabulary = {token: index for token, index in codec.tokenizer.get_vocab().items() if index < 99}
    prompts = ["".join(sorted(vocabulary)[10:16]), "".join(sorted(vocabulary)[20:23])]
    chosen = Settings(max_new_tokens=12)
    whole = generate_texts(drives, codec, prompts, chosen)
    assert whole == [generate_texts(drives, codec, [prompt], chosen)[0] for prompt in prompts]
    stop = whole[0][4:6]
    stopped = generate_texts(drives, codec, prompts, chosen, [stop])
    assert stopped[0] == whole[0][: whole[0].find(stop)]
    pieces = list(stream_texts(drives, codec, prompts, chosen, [stop]))
    assert ["".join(row) for row in zip(*pieces, strict=True)] == stopped
    first, second = pieces[-1]
    assert isinstance(first, LastPiece) and first.is_complete
    assert isinstance(second, LastPiece) and not second.is_complete


def test_the_last_piece_says_whether_the_text_was_ended_or_cut(folder: Path) -> None:
    """Also where an end token or a stop string falls on the last token that was allowed."""
    codec, drives = read_codec(folder, "model"), Decoder(eager_decoder("llama"), manager().binder)
    prompt = "".join(sorted(token for token, index in codec.tokenizer.get_vocab().items() if index < 99)[10:16])

    def last(stop: str = "", **more: Any) -> LastPiece:
        pieces = list(stream_texts(drives, codec, [prompt], Settings(max_new_tokens=4, **more), [stop] if stop else ()))
        (end,) = pieces[-1]
        assert isinstance(end, LastPiece)
        return end

    text = generate_texts(drives, codec, [prompt], Settings(max_new_tokens=4))[0]
    fourth = codec.tokenizer.encode(text, add_special_tokens=False).ids[-1]
    assert not last().is_complete
    assert last(stop=text[-1]).is_complete
    assert last(eos=(fourth,)).is_complete


def test_half_of_a_surrogate_pair_is_named(tmp_path: Path) -> None:
    write_letters(tmp_path, "{{ messages[0]['content'] }}")
    codec = read_codec(tmp_path, "test")
    for prompt in ("a\ud800", [{"role": "user", "content": "\udc00"}]):
        with pytest.raises(InputError, match="half of a surrogate pair"):
            codec.ids_of(prompt)
    assert codec.ids_of("é😀")
