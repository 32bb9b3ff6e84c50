"""The game wallet over HTTP: signed calls, answered with 200 and a status of their own (docs/games.md)."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from ledger.domain.errors import Refused
from ledger.domain.game_dialect import (
    INVALID_PARTNER,
    INVALID_SIGNATURE,
    UNKNOWN,
    WRONG_SYNTAX,
    declined,
    read_json,
)
from ledger.domain.policy import Action, Caller
from ledger.resources.endpoint import Answer, Call, Endpoint
from ledger.resources.game_forms import BetForm, GameAnswer, QuestionForm, RollbackForm, WinForm
from ledger.services.game_wallets import GameWallets

SIGNATURE: Final = "X-Hub88-Signature"
_NOTHING: Final = msgspec.Raw(b"null")


class GameWalletEndpoints:
    """POST /transaction/bet, /transaction/win, /transaction/rollback, /user/balance and /user/info."""

    def __init__(self, wallets: GameWallets, public_key: RSAPublicKey | None) -> None:
        self._wallets = wallets
        self._public_key = public_key

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them."""

        def declare(
            path: str,
            summary: str,
            form: type[msgspec.Struct],
            work: Callable[[object], Awaitable[dict[str, Any]]],
        ) -> Endpoint:
            async def answer(_caller: Caller | None, call: Call[None, None]) -> Answer:
                """Answered with 200 and a status of its own, whatever is sent; the header signs the raw body."""
                complaint = self._complaint(call)
                if complaint is not None:
                    return Answer(declined(complaint, _own(call.raw)))
                return Answer(await work(read_json(call.raw)))

            return Endpoint(
                "POST",
                path,
                answer,
                summary=summary,
                policy=Action.PLAY,
                answer=GameAnswer,
                envelope=False,
                rate_limited=False,
                hot=True,
                header=SIGNATURE,
                documents=form,
                dialect=self._in_dialect,
            )

        def booked(kind: str) -> Callable[[object], Awaitable[dict[str, Any]]]:
            return lambda body: self._wallets.transact(kind, body)

        def asked(body: object) -> Awaitable[dict[str, Any]]:
            return self._wallets.balance(body)

        return (
            declare("/transaction/bet", "Take a stake from a game user", BetForm, booked("bet")),
            declare("/transaction/win", "Give a game user what a bet has won", WinForm, booked("win")),
            declare("/transaction/rollback", "Undo a bet or a win of a game user", RollbackForm, booked("rollback")),
            declare("/user/balance", "The balance of a game user", QuestionForm, asked),
            declare("/user/info", "The balance of a game user, as games ask when they begin", QuestionForm, asked),
        )

    def _complaint(self, call: Call[None, None]) -> str | None:
        if self._public_key is None:
            return INVALID_PARTNER
        try:
            signature = b64decode(call.header or "", validate=True)
            self._public_key.verify(signature, call.raw, PKCS1v15(), SHA256())
        except (ValueError, InvalidSignature):
            return INVALID_SIGNATURE
        return None

    def _in_dialect(self, refused: Refused, body: bytes) -> Answer:
        """Tell a refusal of the ledger's in the words of games."""
        if self._public_key is None:
            status = INVALID_PARTNER
        else:
            status = WRONG_SYNTAX if refused.reason == "payload_too_large" else UNKNOWN
        return Answer(declined(status, _own(body)))


class _Own(msgspec.Struct, frozen=True):
    """What of a body is told again; the rest is passed over."""

    user: msgspec.Raw = _NOTHING
    request_uuid: msgspec.Raw = _NOTHING


_read_own: Final = msgspec.json.Decoder(_Own).decode
_read_text: Final = msgspec.json.Decoder(str).decode


def _own(body: bytes) -> dict[str, str]:
    """Return the texts of a body that are told again, without reading all of it: anyone may send one."""
    try:
        own = _read_own(body)
    except Exception:
        return {}
    found = {}
    for name, raw in (("user", own.user), ("request_uuid", own.request_uuid)):
        with suppress(Exception):
            found[name] = _read_text(raw)
    return found


class NewGameUsers(msgspec.Struct, frozen=True):
    """Names to make users of; what cannot be a name, or is one already, is passed over."""

    users: list[Any]


class MadeGameUsers(msgspec.Struct, frozen=True):
    """The names that were new."""

    created: list[str]


class GameUserUpdate(msgspec.Struct, frozen=True):
    """`ACTIVE` or `DISABLED`."""

    status: str


class GameUserView(msgspec.Struct, frozen=True):
    """A game user and whether it may bet."""

    user: str
    status: str


class GameUserEndpoints:
    """POST /api/games/users and PATCH /api/games/users/<rest:name>."""

    def __init__(self, wallets: GameWallets) -> None:
        self._wallets = wallets

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Declare them."""
        common = ("missing_fields", "invalid_request", "insufficient_permissions", "service_unavailable")
        # A name may hold slashes.
        return (
            Endpoint(
                "POST",
                "/api/games/users",
                self.create,
                summary="Make game users, each with 1.00000 USD",
                policy=Action.MANAGE_GAME_USERS,
                body=NewGameUsers,
                answer=MadeGameUsers,
                status=201,
                also=(200,),
                refuses=common,
            ),
            Endpoint(
                "PATCH",
                "/api/games/users/<rest:name>",
                self.update,
                summary="Let a game user bet, or not",
                policy=Action.MANAGE_GAME_USERS,
                body=GameUserUpdate,
                answer=GameUserView,
                refuses=(*common, "invalid_status", "user_not_found"),
            ),
        )

    async def create(self, _caller: Caller, call: Call[NewGameUsers, None]) -> Answer:
        """Make those that are new."""
        created = await self._wallets.create(call.body.users)
        call.notes["created"] = len(created)
        return Answer(MadeGameUsers(created), status=201 if created else 200)

    async def update(self, _caller: Caller, call: Call[GameUserUpdate, None]) -> Answer:
        """Set the status."""
        name, status = call.params["name"], call.body.status
        await self._wallets.set_status(name, status)
        call.notes["status"] = status
        return Answer(GameUserView(name, status))
