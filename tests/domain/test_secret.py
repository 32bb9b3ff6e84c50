"""A secret shows itself only where it is asked to."""

import pickle
from dataclasses import dataclass

import msgspec
import pytest

from ledger.domain.secret import Secret, read_secret


class Form(msgspec.Struct):
    email: str
    password: Secret


@dataclass
class Held:
    password: Secret


FORM = msgspec.json.decode(b'{"email": "a@b", "password": "hunter2"}', type=Form, dec_hook=read_secret)


def test_it_is_read_from_text_and_revealed() -> None:
    assert FORM.password.reveal() == "hunter2"
    assert FORM.password == Secret("hunter2") != Secret("hunter3")
    assert len({Secret("hunter2"), FORM.password}) == 1


@pytest.mark.parametrize("body", [b'{"email": "a", "password": 7}', b'{"email": "a", "password": ["hunter2"]}'])
def test_it_is_read_from_nothing_else(body: bytes) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(body, type=Form, dec_hook=read_secret)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("shown", [repr(FORM), str(FORM.password), f"{FORM.password}", f"{FORM}", f"{[FORM.password]}"])
def test_it_is_not_shown(shown: str) -> None:
    assert "hunter2" not in shown
    assert "***" in shown
    assert "hunter2" not in repr(Held(FORM.password))


def test_it_is_neither_encoded_nor_pickled() -> None:
    with pytest.raises(TypeError):
        msgspec.json.encode(FORM)
    with pytest.raises(TypeError):
        pickle.dumps(FORM.password)
