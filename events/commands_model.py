"""What may be asked for. `decide` in events.commands judges it.

Command
├── TenantCommand
│   ├── PutTenant  ChangeTenant  PutUser  RemoveUser
│   ├── DisableTenant  EnableTenant  DeleteTenant  RestoreTenant  PurgeTenant
│   └── RecordProvisioned          (provisioning only)
├── PutInstallation  PutDefaults
├── PutTier  DeleteTier
├── PutOperator  DeleteOperator
├── IssueToken  RevokeToken
└── Undo                           of any of those that can be undone
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from events.facts import (
    INSTALLATION_ID,
    KIND_INSTALLATION,
    KIND_OPERATOR,
    KIND_TENANT,
    KIND_TIER,
    KIND_TOKEN,
)
from events.model import VERIFIER, Settings, TierName

COMMAND_ID = r"^[!-~]{1,64}$"
# What a NATS subject may carry and people write: names and addresses of electronic mail.
OPERATOR_NAME = r"^[A-Za-z0-9][A-Za-z0-9_@+-]*(?:\.[A-Za-z0-9_@+-]+)*$"
TOKEN_ID = r"^[A-Za-z0-9_-]{8,64}$"  # noqa: S105 - a pattern

# Tenants that one operator may be bound to by name; who needs more gets "*".
OPERATED_MAX = 1000

OperatedTenant = Annotated[str, Field(pattern=r"^(\*|[a-z0-9][a-z0-9_-]{0,62})$")]
OperatorRole = Literal["viewer", "operator"]
TokenRole = Literal["viewer", "tenant-admin", "operator"]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong: where (dotted, "" for the whole), what, and what to do."""

    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.path}: {self.message}" if self.path else self.message
        return f"{text} ({self.hint})" if self.hint else text


class CommandRefused(Exception):
    """The command breaks rules; nothing was stored. `mistakes` has all of them.

    `code` is for programs: "refused", "missing" (no such tenant, tier …), "exists" (it was to be
    made), "changed" (it is not as expected any more).
    """

    def __init__(self, mistakes: list[Mistake], code: str = "refused") -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = mistakes
        self.code = code


class Command(BaseModel):
    """A request to change. Sent again with the same command_id it still happens once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    TYPE: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1
    KIND: ClassVar[str] = KIND_TENANT

    command_id: str = Field(default_factory=lambda: uuid4().hex, pattern=COMMAND_ID)
    dry_run: bool = False
    """Only tell what would be stored."""
    expected_version: int | None = None
    """Refuse unless this is the last sequence of what is changed (0: it does not exist)."""

    @property
    def kind(self) -> str:
        return self.KIND

    @property
    def subject_id(self) -> str:
        """The id within its kind whose facts this command adds to."""
        return INSTALLATION_ID


class TenantCommand(Command):
    """The id is checked by `decide`, so that its mistakes are told with all others."""

    id: str

    @property
    def subject_id(self) -> str:
        return self.id


class PutTenant(TenantCommand):
    """Let the tenant have exactly these settings; make it if need be. "enabled" may be among them;
    left out, it stays as it is: re-reading a file must not open what an operator closed."""

    TYPE = "PutTenant"
    settings: Settings = {}
    force: bool = False
    """Change the place of the data although it is there: it stays behind."""
    create_only: bool = False
    """Refuse when the tenant exists."""


class ChangeTenant(TenantCommand):
    """Change some settings; None puts a key back to its default."""

    TYPE = "ChangeTenant"
    patch: Settings
    force: bool = False
    """Change the place of the data although it is there: it stays behind."""


class PutUser(TenantCommand):
    """Let the tenant have this user: another one, or one of that name with a new verifier."""

    TYPE = "PutUser"
    name: Annotated[str, Field(min_length=1, max_length=63)]
    scram: Annotated[str, Field(pattern=VERIFIER, repr=False)]


class RemoveUser(TenantCommand):
    TYPE = "RemoveUser"
    name: str


class DisableTenant(TenantCommand):
    TYPE = "DisableTenant"


class EnableTenant(TenantCommand):
    TYPE = "EnableTenant"


class DeleteTenant(TenantCommand):
    """Its clients are refused at once; it can be restored (Undo) until it is purged."""

    TYPE = "DeleteTenant"


class RestoreTenant(TenantCommand):
    """Let a deleted tenant be there again as it was. Given by Undo."""

    TYPE = "RestoreTenant"


class PurgeTenant(TenantCommand):
    """Erase the personal data of a deleted tenant, for ever."""

    TYPE = "PurgeTenant"
    force: bool = False
    """Although it was deleted less than the installation's `deletion_retention` ago."""


class RecordProvisioned(TenantCommand):
    """What provisioning has made. `secret` is sealed (events.secrets)."""

    TYPE = "RecordProvisioned"
    role: str
    secret: str
    node: str = ""
    fingerprint: str = ""


class PutInstallation(Command):
    """Let the installation have exactly these settings; nodes' passwords sealed before."""

    TYPE = "PutInstallation"
    KIND = KIND_INSTALLATION
    settings: Settings
    force: bool = False
    """Change where tenants have their data by default although it is there."""


class PutDefaults(Command):
    """Let the installation have these defaults of tenants, all else as it is."""

    TYPE = "PutDefaults"
    KIND = KIND_INSTALLATION
    defaults: Settings
    force: bool = False
    """As in PutInstallation."""


class TierCommand(Command):
    KIND = KIND_TIER
    name: TierName

    @property
    def subject_id(self) -> str:
        return self.name


class PutTier(TierCommand):
    """Let the tier set exactly this; make it if need be."""

    TYPE = "PutTier"
    settings: Settings


class DeleteTier(TierCommand):
    TYPE = "DeleteTier"


class OperatorCommand(Command):
    KIND = KIND_OPERATOR
    name: Annotated[str, Field(pattern=OPERATOR_NAME, max_length=63)]

    @property
    def subject_id(self) -> str:
        return self.name


class PutOperator(OperatorCommand):
    """Let the operator have this role; tokens in that name are good for no more than it.

    With `scram` it may also log in over SQL: to the console, and in the role operator to the data
    of `tenants` ("*": of all). Left out (None), each of the two stays as it is; empty, it goes.
    """

    TYPE = "PutOperator"
    role: OperatorRole
    disabled: bool = False
    scram: Annotated[Annotated[str, Field(pattern=f"{VERIFIER}|^$")] | None, Field(repr=False)] = (
        None
    )
    tenants: Annotated[tuple[OperatedTenant, ...], Field(max_length=OPERATED_MAX)] | None = None


class DeleteOperator(OperatorCommand):
    """Tokens in that name are refused from now on."""

    TYPE = "DeleteOperator"


class TokenCommand(Command):
    KIND = KIND_TOKEN
    jti: Annotated[str, Field(pattern=TOKEN_ID)]

    @property
    def subject_id(self) -> str:
        return self.jti


class IssueToken(TokenCommand):
    """Note that a token was made, so that it can be listed and revoked. Times: Unix seconds."""

    TYPE = "IssueToken"
    name: Annotated[str, Field(pattern=OPERATOR_NAME, max_length=63)]
    role: TokenRole
    tenant: str = ""
    issued_at: int
    expires_at: int


class RevokeToken(TokenCommand):
    """Let the token count no more; `expires_at` is needed only for one that was never noted."""

    TYPE = "RevokeToken"
    expires_at: int | None = None


class Undo(Command):
    """Take back what was stored at `sequence`, as far as nothing has changed it again since."""

    TYPE = "Undo"
    of_kind: Literal["tenant", "tier", "installation", "operator"] = "tenant"
    id: str
    sequence: int
    force: bool = False
    """Although it was changed again since; and the place of data, as in ChangeTenant."""

    @property
    def kind(self) -> str:
        return self.of_kind

    @property
    def subject_id(self) -> str:
        return self.id


def all_settings(command: Command) -> dict[str, Any]:
    """What a command carries besides itself, for whoever shows or judges it."""
    return command.model_dump(exclude={"command_id", "dry_run", "expected_version"})
