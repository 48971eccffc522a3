"""Users of tenants: passwords become verifiers at once; verifiers are never shown."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from events.commands_model import Mistake
from events.model import Settings
from wire.postgres.scram import make_verifier, verify_password

# A verifier costs milliseconds on purpose; a tenant that has more users gets them one by one.
USERS_AT_ONCE_MAX: Final = 50
# PostgreSQL hashes whatever it gets; beyond this it is no password.
PASSWORD_CHARACTERS_MAX: Final = 1024


async def with_verifiers(settings: Settings, known: Settings, mistakes: list[Mistake]) -> Settings:
    """`settings` whose users have verifiers: of their passwords, or, named alone, what they had."""
    users = settings.get("users")
    if not isinstance(users, list):
        return settings
    if len(users) > USERS_AT_ONCE_MAX:
        mistakes.append(
            Mistake("users", f"more than {USERS_AT_ONCE_MAX} at once", "Add the rest one by one.")
        )
        return settings
    before = {user["name"]: user["scram"] for user in known.get("users", ())}
    made = [
        await _with_verifier(user, before, f"users.{at}", mistakes) for at, user in enumerate(users)
    ]
    return {**settings, "users": made}


async def _with_verifier(
    user: Any, before: dict[str, str], path: str, mistakes: list[Mistake]
) -> Any:
    if not isinstance(user, dict) or not isinstance(user.get("name"), str):
        return user  # a mistake, told by the model
    name = user["name"]
    if "password" not in user:
        return {**user, "scram": before[name]} if set(user) == {"name"} and name in before else user
    rest = {key: value for key, value in user.items() if key != "password"}
    if "scram" in rest:
        mistakes.append(Mistake(path, "has both password and scram", "Keep one of the two."))
        return rest
    found = await verifier_of(user["password"], before.get(name), f"{path}.password", mistakes)
    return {**rest, "scram": found}


async def verifier_of(password: Any, before: str | None, path: str, mistakes: list[Mistake]) -> str:
    """A verifier of the password; the one it has, if that fits: else each PUT were a change."""
    if not isinstance(password, str) or not 1 <= len(password) <= PASSWORD_CHARACTERS_MAX:
        text = f"must be a text of 1 to {PASSWORD_CHARACTERS_MAX} characters"
        mistakes.append(Mistake(path, text))
        return ""
    return await asyncio.to_thread(_make, password, before)


def _make(password: str, before: str | None) -> str:
    if before is not None and verify_password(password, before):
        return before
    return make_verifier(password)
