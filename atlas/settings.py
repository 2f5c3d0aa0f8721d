"""Every setting in one place: environment variables `ATLAS_*` (or `ATLAS_*_FILE`, see SecretFiles), then `atlas.toml`, then
the defaults below.

`atlas.toml` is looked for in the current folder, then in the atlas home. A profile there names a model with its transcoders:

    [profiles.demo]
    model = "path/or/hub-name"
    transcoders = "path/or/hub-name"
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from atlas.errors import UsageError


def default_home() -> Path:
    return Path(os.environ.get("ATLAS_HOME") or Path.home() / ".circuit-atlas")


class Profile(BaseModel):
    """A model and the transcoder set that fits it; each a folder or a hub name. Without a set: for work on components only."""

    model: str
    transcoders: str = ""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ATLAS_", extra="ignore", env_ignore_empty=True)

    home: Path = Field(default_factory=default_home, description="folder of everything when no server is set")
    catalog_url: str = Field("", description="SQLAlchemy address of the catalog; empty = SQLite under home")
    catalog_password: SecretStr = Field(SecretStr(""), description="password for catalog_url when that names none")
    graph_url: str = Field("", description="bolt:// or neo4j:// address; empty = the embedded server")
    graph_user: str = "neo4j"
    graph_password: SecretStr = SecretStr("")
    graph_database: str = Field("", description="database name; empty = the server's default")
    actor: str = Field("", description="who writes; empty = the login name of this machine")
    encoder: str = Field("all-MiniLM-L6-v2", description="sentence encoder for search: shipped name or a folder")
    embedded_heap: str = Field("1g", description="memory of the embedded graph server")
    embedded_idle_seconds: int = Field(
        1800, ge=0, description="stop the embedded server after this idle time; 0 = never"
    )
    cypher_timeout_seconds: float = Field(20.0, gt=0, description="time limit of user Cypher")
    cypher_row_limit: int = Field(10_000, gt=0, description="row limit of user Cypher")
    server: str = Field(
        "", description="https:// address of a server of `atlas serve`; empty = the atlas of this machine"
    )
    token: SecretStr = Field(SecretStr(""), description="access token for that server")
    http_max_body_bytes: int = Field(16 * 2**20, gt=0, description="largest JSON body of a request to `atlas serve`")
    import_max_bytes: int = Field(512 * 2**20, gt=0, description="largest graph file, unpacked")
    log: Literal["text", "json"] = Field("text", description="form of the log on stderr")
    log_level: Literal["", "debug", "info", "warning", "error"] = Field(
        "", description="least grave entries that are logged; empty = error, for worker and serve info"
    )
    metrics_token: SecretStr = Field(SecretStr(""), description="what a scraper of /metrics may send as bearer token")
    accounts: bool = Field(False, description="the pages ask for a sign-in; `atlas serve` sets it")
    https: bool = Field(False, description="people reach the pages by https: cookies are marked Secure")
    queue_limit: int = Field(10_000, gt=0, description="jobs that may wait; more are refused")
    profiles: dict[str, Profile] = Field(default_factory=dict)

    @field_validator("graph_url")
    @classmethod
    def _is_a_bolt_address(cls, value: str) -> str:
        if value and not re.match(r"(bolt|neo4j)(\+s|\+ssc)?://[^/]", value):
            raise ValueError(f"{value!r} is not a bolt:// or neo4j:// address")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls, toml_file=[default_home() / "atlas.toml", Path("atlas.toml")])
        return init_settings, env_settings, SecretFiles(settings_cls), toml

    def resolved_catalog_url(self) -> str:
        password = self.catalog_password.get_secret_value()
        if self.catalog_url and password:
            from sqlalchemy import exc, make_url

            with suppress(exc.ArgumentError):  # told in one sentence where it is opened
                url = make_url(self.catalog_url)
                if not url.password:
                    return url.set(password=password).render_as_string(hide_password=False)
        return self.catalog_url or f"sqlite:///{self.home / 'catalog.sqlite'}"

    @property
    def embedded_folder(self) -> Path:
        return self.home / "graph"

    def profile(self, name: str) -> Profile:
        try:
            return self.profiles[name]
        except KeyError:
            known = ", ".join(sorted(self.profiles)) or "none"
            raise UsageError(
                f"There is no profile {name!r} in atlas.toml (known: {known}).",
                "Add [profiles.NAME] with model and transcoders, or pass --model and --transcoders.",
            ) from None


class SecretFiles(PydanticBaseSettingsSource):
    """ATLAS_NAME_FILE names a file that holds the value of ATLAS_NAME, as container engines hand over secrets.

    Raises UsageError when the file cannot be read.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        variable = f"ATLAS_{field_name.upper()}_FILE"
        path = os.environ.get(variable)
        if not path:
            return None, field_name, False
        try:
            return Path(path).read_text("utf-8").strip(), field_name, False
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise UsageError(
                f"The file {path} of the setting {variable} cannot be read: {reason.lower()}.",
                "Name a file that this user may read.",
            ) from error

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value}


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment and atlas.toml. Raises UsageError naming the variable and the fault."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = "ATLAS_" + "_".join(str(part) for part in first["loc"]).upper()
        raise UsageError(
            f"The setting {name} is not usable: {first['msg'].removeprefix('Value error, ')}.",
            "Mend it in the environment or atlas.toml.",
        ) from error
    except ValueError as error:
        raise UsageError(f"atlas.toml cannot be read: {error}.", "Mend the file.") from error
