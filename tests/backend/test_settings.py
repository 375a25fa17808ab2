"""Settings: what is read, what is refused, and what is never shown."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import redis

from skylight.backend.allowed_hosts import HostList
from skylight.backend.errors import ConfigError
from skylight.backend.setting_parsers import redact_url
from skylight.backend.settings import Settings


def test_an_empty_environment_gives_the_defaults():
    settings = Settings.from_env({})
    assert settings == Settings()
    assert (settings.sam, settings.device, settings.log_level) == ("tiny", "auto", "INFO")
    assert (settings.threads, settings.workers, settings.min_annotations, settings.memory_mb) == (
        8,
        1,
        3,
        64,
    )
    assert (settings.label_studio_url, settings.redis_url, settings.checkpoint_url) == ("", "", "")
    assert settings.home == Path.home() / ".skylight"
    assert settings.refine is False


def test_every_variable_of_the_table_reaches_its_field():
    given = {
        "LABEL_STUDIO_URL": "http://ls.example:8080/ls/",
        "LABEL_STUDIO_API_KEY": "key\n",
        "REDIS_URL": "unix:///run/redis.sock",
        "SKYLIGHT_HOME": "/data/skylight",
        "SKYLIGHT_COPY": "/data/copy",
        "SKYLIGHT_SAM": "vit_b",
        "SKYLIGHT_DEVICE": "cuda:1",
        "SKYLIGHT_PRECISION": "Float32",
        "SKYLIGHT_CHECKPOINT_URL": "https://mirror.example/sam/",
        "SKYLIGHT_THREADS": "2",
        "SKYLIGHT_WORKERS": "0",
        "SKYLIGHT_MIN_ANNOTATIONS": "7",
        "SKYLIGHT_RETRAIN_EVERY": "4",
        "SKYLIGHT_RECONCILE_MINUTES": "9",
        "SKYLIGHT_KEEP_PREDICTIONS": "48",
        "SKYLIGHT_ACCEPT": "Ground_truth",
        "SKYLIGHT_CONSENSUS": "majority",
        "SKYLIGHT_MEMORY_MB": "64",
        "SKYLIGHT_DISK_MB": "0",
        "SKYLIGHT_MAX_PIXELS": "1000",
        "SKYLIGHT_MAX_BODY_MB": "7",
        "SKYLIGHT_TILE": "512",
        "SKYLIGHT_MIN_AREA": "5",
        "SKYLIGHT_REFINE": "On",
        "SKYLIGHT_OUTPUT": "Polygon",
        "SKYLIGHT_AVOID_OVERLAP": "on",
        "SKYLIGHT_LOG_LEVEL": "debug",
        "SKYLIGHT_LOG_FORMAT": "JSON",
        "SKYLIGHT_WEBHOOK_SECRET": "correct-horse-battery",
        "SKYLIGHT_USER": "label-studio",
        "SKYLIGHT_PASSWORD": "correct horse",
        "SKYLIGHT_ALLOWED_HOSTS": "Minio.example.org:9000, *.example.com",
        "SKYLIGHT_TRUSTED_HOSTS": "Skylight.example.org",
    }
    assert {row.env for row in Settings.table()} == set(given)
    expected = Settings(
        label_studio_url="http://ls.example:8080/ls",
        label_studio_api_key="key",
        redis_url="unix:///run/redis.sock",
        home=Path("/data/skylight"),
        copy=Path("/data/copy"),
        sam="vit_b",
        device="cuda:1",
        checkpoint_url="https://mirror.example/sam",
        precision="float32",
        threads=2,
        workers=0,
        min_annotations=7,
        retrain_every=4,
        reconcile_minutes=9,
        keep_predictions=48,
        accept="ground_truth",
        consensus="majority",
        memory_mb=64,
        disk_mb=0,
        max_pixels=1000,
        max_body_mb=7,
        tile=512,
        min_area=5,
        refine=True,
        output="polygon",
        avoid_overlap=True,
        log_level="DEBUG",
        log_format="json",
        webhook_secret="correct-horse-battery",
        user="label-studio",
        password="correct horse",
        allowed_hosts=HostList(("minio.example.org:9000", "*.example.com")),
        trusted_hosts=HostList(("skylight.example.org",)),
    )
    assert Settings.from_env(given) == expected


def test_an_empty_value_counts_as_unset():
    assert Settings.from_env({"SKYLIGHT_THREADS": "", "REDIS_URL": " "}) == Settings()


def test_other_variables_are_nobodys_business():
    assert Settings.from_env({"PATH": "/bin", "LABEL_STUDIO_HOST": "x", "skylight_sam": "y"}) == Settings()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SKYLIGHT_THREAD", "SKYLIGHT_THREADS"),
        ("SKYLIGHT_MEMORY", "SKYLIGHT_MEMORY_MB"),
        ("SKYLIGHT_", "SKYLIGHT_SAM"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(name, nearest):
    with pytest.raises(ConfigError, match=f"{name} is not a setting of Skylight. Did you mean {nearest}[?]"):
        Settings.from_env({name: "1"})


@pytest.mark.parametrize("value", ["many", "0", "257", "1.5", "1_0", "٣"])
def test_a_bad_number_is_refused_with_variable_and_value(value):
    with pytest.raises(ConfigError, match="SKYLIGHT_THREADS: .*from 1 to 256") as caught:
        Settings.from_env({"SKYLIGHT_THREADS": value})
    assert f"'{value}'" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LABEL_STUDIO_URL", "ls.example:8080"),
        ("LABEL_STUDIO_URL", "http://"),
        ("LABEL_STUDIO_URL", "http://[::1"),
        ("REDIS_URL", "localhost:6379"),
        ("SKYLIGHT_HOME", "s3://bucket/skylight"),
        ("SKYLIGHT_DEVICE", "gpu"),
        ("SKYLIGHT_PRECISION", "half"),
        ("SKYLIGHT_LOG_LEVEL", "loud"),
        ("SKYLIGHT_REFINE", "1"),
        ("SKYLIGHT_ACCEPT", "drafts"),
        ("SKYLIGHT_CONSENSUS", "2 of 3"),
        ("SKYLIGHT_AVOID_OVERLAP", "yes"),
        ("SKYLIGHT_OUTPUT", "mask"),
    ],
)
def test_a_bad_text_is_refused_with_its_variable(name, value):
    with pytest.raises(ConfigError, match=name):
        Settings.from_env({name: value})


def test_secrets_are_not_shown():
    settings = Settings.from_env(
        {
            "LABEL_STUDIO_API_KEY": "topsecret",
            "REDIS_URL": "rediss://user:hidden@redis.example:6380/0?password=hushhush&x=1",
            "SKYLIGHT_WEBHOOK_SECRET": "correct-horse-battery",
        }
    )
    for text in (repr(settings), str(settings), f"{settings}"):
        assert not [secret for secret in ("topsecret", "hidden", "hushhush", "horse") if secret in text]
        assert "redis.example:6380/0" in text
    assert settings.redis_url.startswith("rediss://user:hidden@")


@pytest.mark.parametrize("name", ["REDIS_URL", "LABEL_STUDIO_URL"])
def test_secrets_are_not_shown_in_errors(name):
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({name: "ftp://user:hidden@host.example"})
    assert "hidden" not in str(caught.value)
    assert "host.example" in str(caught.value)


@pytest.mark.parametrize("value", ["too-short-secret"[:15], "x" * 201, "sixteen letters and", "schlüssel-sechzehn"])
def test_a_webhook_secret_that_no_header_can_carry_is_refused_and_not_shown(value):
    with pytest.raises(ConfigError, match="SKYLIGHT_WEBHOOK_SECRET: .*16 to 200") as caught:
        Settings.from_env({"SKYLIGHT_WEBHOOK_SECRET": value})
    assert value not in str(caught.value)


def test_a_key_inside_the_label_studio_url_is_refused():
    with pytest.raises(ConfigError, match="LABEL_STUDIO_API_KEY"):
        Settings.from_env({"LABEL_STUDIO_URL": "http://user:hidden@ls.example"})


PIECES = ("pa", "ss", "wo", "rd")


@pytest.mark.parametrize(
    "password", ["pa@ss", "pa/ss", "pa#ss", "pa?ss", "pa@ss/wo#rd", "pa:ss", "pa[ss", "pa%ss", "pa ss"]
)
@pytest.mark.parametrize("url", ["redis://:{}@h.example:6379/0", "rediss://user:{}@h.example", "redis://user:{}"])
def test_no_piece_of_a_password_is_shown_however_it_is_written(url, password):
    if "@" not in url and "@" in password:
        password = password.replace("@", "$")  # what follows would be the host
    text = url.format(password)
    shown = redact_url(text)
    assert not [piece for piece in PIECES if piece in shown.replace("rediss:", "")] and "***" in shown
    assert ("h.example" in shown) == ("h.example" in url)
    try:
        message = repr(Settings.from_env({"REDIS_URL": text}))
    except ConfigError as error:
        message = str(error)
        assert "%40" in message
    assert not [piece for piece in ("pa", "ss") if f"{piece}@" in message or f":{piece}" in message]


@pytest.mark.parametrize("sign", "/#?[")
def test_a_password_that_breaks_the_url_is_refused_with_the_remedy(sign):
    with pytest.raises(ConfigError, match="REDIS_URL: .*percent-encoded: @ as %40") as caught:
        Settings.from_env({"REDIS_URL": f"redis://:qq{sign}zz@h.example:6379/0"})
    assert "qq" not in str(caught.value) and "zz" not in str(caught.value)


def test_passwords_that_redis_py_reads_are_taken_and_not_shown():
    for text, password in (("redis://:p@q@h.example:6379", "p@q"), ("redis://u:p%40q%2F@h.example:6379", "p@q/")):
        settings = Settings.from_env({"REDIS_URL": text})
        assert redis.connection.parse_url(settings.redis_url)["password"] == password
        assert "h.example:6379" in repr(settings) and "p@q" not in repr(settings) and "p%40q" not in repr(settings)


def test_a_socket_may_have_an_at_sign_in_its_path():
    assert Settings.from_env({"REDIS_URL": "unix:///tmp/a@b/s.sock"}).redis_url == "unix:///tmp/a@b/s.sock"


def test_the_table_names_each_field_with_default_and_meaning():
    table = Settings.table()
    assert [*(row.field for row in table), "bucket"] == list(Settings.__dataclass_fields__)
    assert all(row.help for row in table)
    assert {row.env: row.default for row in table}["SKYLIGHT_THREADS"] == str(Settings().threads)


def test_settings_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Settings().threads = 3  # type: ignore[misc]
