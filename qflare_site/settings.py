"""Django settings of QFLARE.

Two profiles share one code path. Without `DATABASE_URL` and `REDIS_URL` everything lives on one
host under `QFLARE_DATA_DIR` (embedded); with both, it lives in PostgreSQL and Redis (services).
"""

import os
from datetime import timedelta
from pathlib import Path

from django.templatetags.static import static

from audit.anchor_settings import parse_anchors
from qflare_site.data_dir import make_private_folder, read_or_create_secret
from qflare_site.environment import read_environment
from qflare_site.logs import logging_config
from qflare_site.stores import (
    blob_folder,
    embedded_caches,
    filesystem_broker_options,
    postgres_database,
    redis_broker_options,
    redis_caches,
    smtp_settings,
    sqlite_database,
)

BASE_DIR = Path(__file__).resolve().parent.parent
ENVIRONMENT = read_environment()

# Profile and places
PROFILE = "services" if ENVIRONMENT["DATABASE_URL"] else "embedded"
EMBEDDED = PROFILE == "embedded"
QFLARE_DATA_DIR = make_private_folder(BASE_DIR / ENVIRONMENT["QFLARE_DATA_DIR"])
QFLARE_LOG_DIR = QFLARE_DATA_DIR / "log"
QFLARE_METRICS_DIR = make_private_folder(QFLARE_DATA_DIR / "metrics")
# prometheus_client reads it when it is imported: then the processes of a host add their numbers up there.
os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(QFLARE_METRICS_DIR))
QFLARE_METRICS_TOKEN = ENVIRONMENT["QFLARE_METRICS_TOKEN"]
QFLARE_METRICS_PORT = ENVIRONMENT["QFLARE_METRICS_PORT"]
QFLARE_OTLP_ENDPOINT = ENVIRONMENT["QFLARE_OTLP_ENDPOINT"]
QFLARE_BROKER_DIR = QFLARE_DATA_DIR / "broker"
QFLARE_BLOB_ACCEL = ENVIRONMENT["QFLARE_BLOB_ACCEL"]
QFLARE_BLOB_REDIRECT = ENVIRONMENT["QFLARE_BLOB_REDIRECT"]
QFLARE_BLOB_URL = ENVIRONMENT["BLOB_URL"]
QFLARE_BLOB_DIR = blob_folder(QFLARE_BLOB_URL, default=QFLARE_DATA_DIR / "blobs")
QFLARE_KEK_FILE = Path(ENVIRONMENT["QFLARE_KEK_FILE"] or QFLARE_DATA_DIR / "keys" / "kek")
QFLARE_KEK_PROVIDER = ENVIRONMENT["QFLARE_KEK_PROVIDER"]
QFLARE_ACKNOWLEDGE_FILE_KEK = ENVIRONMENT["QFLARE_ACKNOWLEDGE_FILE_KEK"]
QFLARE_PKCS11_MODULE = ENVIRONMENT["QFLARE_PKCS11_MODULE"]
QFLARE_PKCS11_TOKEN = ENVIRONMENT["QFLARE_PKCS11_TOKEN"]
QFLARE_PKCS11_KEY = ENVIRONMENT["QFLARE_PKCS11_KEY"]
QFLARE_PKCS11_PIN = ENVIRONMENT["QFLARE_PKCS11_PIN"]
QFLARE_ARCHIVE_DIR = Path(ENVIRONMENT["QFLARE_ARCHIVE_DIR"] or QFLARE_DATA_DIR / "archive")
QFLARE_ENCLAVE_DIR = Path(ENVIRONMENT["QFLARE_ENCLAVE_DIR"] or QFLARE_DATA_DIR / "enclave")

# Core
DEBUG = ENVIRONMENT["DEBUG"]
DEFAULT_EXCEPTION_REPORTER_FILTER = "qflare_site.debug_page.SecretsFilter"
SECRET_KEY = ENVIRONMENT["SECRET_KEY"] or read_or_create_secret(QFLARE_DATA_DIR / "secret_key")
ALLOWED_HOSTS = ENVIRONMENT["ALLOWED_HOSTS"]
ROOT_URLCONF = "qflare_site.urls"
WSGI_APPLICATION = "qflare_site.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "qflare_site",
    # unfold replaces templates of django.contrib.admin and has to come before it
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "django_celery_beat",
    "django_ratelimit",
    "rest_framework",
    "drf_spectacular",
    "axes",
    "csp",
    "keyring",
    "audit",
    "operator_access",
    "devices",
    "enrollment",
    "sessions",
    "enclave",
    "training",
    "monitor",
    "operator_api",
]

MIDDLEWARE = [
    "qflare_site.request_log.RequestLogMiddleware",
    "qflare_site.tracing.TracingMiddleware",
    "qflare_site.metrics.processes.RequestMetricsMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "qflare_site.content_security.ContentSecurityPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "qflare_site.sign_in_limit.SignInLimitMiddleware",
    "operator_access.middleware.SecondFactorMiddleware",
    "axes.middleware.AxesMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# Stores
if EMBEDDED:
    DATABASES = {"default": sqlite_database(QFLARE_DATA_DIR / "qflare.sqlite3")}
    CACHES = embedded_caches(QFLARE_DATA_DIR / "counters.sqlite3")
else:
    DATABASES = {"default": postgres_database(ENVIRONMENT["DATABASE_URL"])}
    CACHES = redis_caches(ENVIRONMENT["REDIS_URL"], ENVIRONMENT["QFLARE_REDIS_PREFIX"])
# Our counter caches add atomically and are shared by the processes that count, which is what django-ratelimit asks
# for; its list of supported caches does not know them.
SILENCED_SYSTEM_CHECKS = ["django_ratelimit.W001"]

# Time, language, static files
TIME_ZONE = "UTC"
USE_TZ = True
LANGUAGE_CODE = "en"
USE_I18N = False
FORMAT_MODULE_PATH = ["qflare_site.formats"]
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True

# Web security
QFLARE_TRUSTED_PROXIES = ENVIRONMENT["QFLARE_TRUSTED_PROXIES"]
QFLARE_INSECURE_HTTP = ENVIRONMENT["QFLARE_INSECURE_HTTP"]
CSRF_TRUSTED_ORIGINS = ENVIRONMENT["CSRF_TRUSTED_ORIGINS"]
CSRF_COOKIE_SECURE = SESSION_COOKIE_SECURE = not QFLARE_INSECURE_HTTP
CSRF_COOKIE_HTTPONLY = SESSION_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = SESSION_COOKIE_SAMESITE = "Strict"
SESSION_COOKIE_AGE = 8 * 3600
SECURE_SSL_REDIRECT = not QFLARE_INSECURE_HTTP
SECURE_REDIRECT_EXEMPT = [r"^health(/live|/ready)?$", r"^metrics$"]
SECURE_HSTS_SECONDS = 0 if QFLARE_INSECURE_HTTP else 365 * 24 * 3600
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = not QFLARE_INSECURE_HTTP
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if QFLARE_TRUSTED_PROXIES else None
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_621_440
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    },
}

# The admin's theme: a blue whose text weights (600 on light, 500 on dark) are legible
PRIMARY_COLOURS = {
    "50": "oklch(97% .014 254.6)",
    "100": "oklch(93.2% .032 255.6)",
    "200": "oklch(88.2% .059 254.1)",
    "300": "oklch(80.9% .105 251.8)",
    "400": "oklch(77% .13 251)",
    "500": "oklch(72% .14 251)",
    "600": "oklch(47% .16 255)",
    "700": "oklch(43% .16 256)",
    "800": "oklch(38% .15 257)",
    "900": "oklch(33% .12 258)",
    "950": "oklch(25% .09 260)",
}
UNFOLD = {
    "SITE_TITLE": "QFLARE",
    "SITE_HEADER": "QFLARE",
    "SITE_URL": "/",
    "SHOW_VIEW_ON_SITE": False,
    "STYLES": [lambda request: static("console.css"), lambda request: static("plots.css")],
    "SIDEBAR": {"navigation": "qflare_site.console.navigation.navigation"},
    "COLORS": {"primary": PRIMARY_COLOURS},
}

# People who sign in
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "qflare_site.operator_events.PasswordChangeRecorder"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
QFLARE_REQUIRE_SECOND_FACTOR = ENVIRONMENT["QFLARE_REQUIRE_SECOND_FACTOR"]
QFLARE_FRESH_SIGN_IN_SECONDS = ENVIRONMENT["QFLARE_FRESH_SIGN_IN_SECONDS"]
QFLARE_SECOND_PERSON = ENVIRONMENT["QFLARE_SECOND_PERSON"]
ACCOUNT_ADAPTER = "operator_access.adapters.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_SESSION_REMEMBER = False
ACCOUNT_FORMS = {"change_password": "operator_access.forms.ChangePasswordForm"}
ACCOUNT_LOGOUT_REDIRECT_URL = "account_login"
# django-axes counts wrong passwords, operator_access.code_limit wrong codes, qflare_site.sign_in_limit addresses: all
# in stores that the processes share.
ACCOUNT_RATE_LIMITS = MFA_RATE_LIMITS = False
MFA_ADAPTER = "operator_access.adapters.SecondFactorAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_RECOVERY_CODES_SHOW_ONCE = True
MFA_TOTP_ISSUER = "QFLARE"
MFA_TOTP_TOLERANCE = 1
MFA_FORMS = {
    "authenticate": "operator_access.forms.AuthenticateForm",
    "reauthenticate": "operator_access.forms.ReauthenticateForm",
    "activate_totp": "operator_access.forms.EnrolTotpForm",
    "authenticate_webauthn": "operator_access.forms.AuthenticatePasskeyForm",
    "reauthenticate_webauthn": "operator_access.forms.ReauthenticatePasskeyForm",
    "login_webauthn": "operator_access.forms.PasskeySignInForm",
    "add_webauthn": "operator_access.forms.EnrolPasskeyForm",
}
AXES_VERBOSE = False  # no line in the log at every start
AXES_FAILURE_LIMIT = 5
AXES_LOCKOUT_TEMPLATE = "account/locked.html"
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "qflare_site.client_address.client_address"

# API
REST_FRAMEWORK = {
    "EXCEPTION_HANDLER": "qflare_site.problem_details.handle_exception",
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_THROTTLE_CLASSES": ["qflare_site.throttling.RateLimit"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "qflare_site.api_description.ApiSchema",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "QFLARE",
    "DESCRIPTION": "Federated learning over quantum-safe sessions. The wire protocol is in docs/protocol.md.",
    "VERSION": "0.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PUBLIC": True,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "POSTPROCESSING_HOOKS": ["qflare_site.api_description.with_problems"],
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "DeviceState": "devices.models.DeviceState",
        "FederationState": "training.models.FederationState",
        "RoundState": "training.models.RoundState",
        "ParticipationState": "training.models.ParticipationState",
    },
    "TAGS": [
        {"name": "operators", "description": "What people and their scripts do, under an API key."},
        {"name": "devices", "description": "QF/1, as docs/protocol.md says."},
        {"name": "log", "description": "The transparency log for everybody, as C2SP tlog-tiles."},
    ],
}
RATELIMIT_USE_CACHE = "ratelimit"
QFLARE_RATES = {
    "enrolment": ENVIRONMENT["QFLARE_RATE_ENROLMENT"],
    "challenge": ENVIRONMENT["QFLARE_RATE_CHALLENGE"],
    "submission": ENVIRONMENT["QFLARE_RATE_SUBMISSION"],
    "upload": ENVIRONMENT["QFLARE_RATE_UPLOAD"],
    "download": ENVIRONMENT["QFLARE_RATE_DOWNLOAD"],
    "work": ENVIRONMENT["QFLARE_RATE_WORK"],
    "log": ENVIRONMENT["QFLARE_RATE_LOG"],
    "operator": ENVIRONMENT["QFLARE_RATE_OPERATOR"],
    "sign-in": ENVIRONMENT["QFLARE_RATE_SIGN_IN"],
    "refusal-events": ENVIRONMENT["QFLARE_RATE_REFUSAL_EVENTS"],
}
QFLARE_RATES_FAIL_OPEN = {"download", "log"}

# Cryptography
QFLARE_SUITES = ENVIRONMENT["QFLARE_SUITES"]
QFLARE_DEFAULT_SUITE = ENVIRONMENT["QFLARE_DEFAULT_SUITE"]
QFLARE_PQC_ENGINES = ENVIRONMENT["QFLARE_PQC_ENGINES"]

# The log
QFLARE_ANCHORS = parse_anchors(ENVIRONMENT["QFLARE_ANCHORS"])

# Quantum key distribution
QFLARE_QKD_KME_URL = ENVIRONMENT["QFLARE_QKD_KME_URL"]
QFLARE_QKD_SAE_ID = ENVIRONMENT["QFLARE_QKD_SAE_ID"]
QFLARE_QKD_CERTIFICATE = ENVIRONMENT["QFLARE_QKD_CERTIFICATE"]
QFLARE_QKD_PRIVATE_KEY = ENVIRONMENT["QFLARE_QKD_PRIVATE_KEY"]
QFLARE_QKD_CA = ENVIRONMENT["QFLARE_QKD_CA"]

# Sessions, rounds and the enclave
QFLARE_SESSION_LIMITS = {
    "requests": ENVIRONMENT["QFLARE_SESSION_REQUESTS"],
    "transfer_bytes": ENVIRONMENT["QFLARE_SESSION_BYTES"],
    "epochs": ENVIRONMENT["QFLARE_SESSION_EPOCHS"],
    "lifetime_seconds": ENVIRONMENT["QFLARE_SESSION_SECONDS"],
}
QFLARE_DEVICE_KEYS = {
    "days": ENVIRONMENT["QFLARE_DEVICE_KEY_DAYS"],
    "sessions": ENVIRONMENT["QFLARE_DEVICE_KEY_SESSIONS"],
    "overlap_seconds": ENVIRONMENT["QFLARE_KEY_OVERLAP_SECONDS"],
}
QFLARE_ASKS_PER_SECOND = ENVIRONMENT["QFLARE_ASKS_PER_SECOND"]
QFLARE_LEASE_SECONDS = ENVIRONMENT["QFLARE_LEASE_SECONDS"]
QFLARE_ENCLAVE_ABSENT_SECONDS = ENVIRONMENT["QFLARE_ENCLAVE_ABSENT_SECONDS"]
QFLARE_MAX_UPDATE_BYTES = ENVIRONMENT["QFLARE_MAX_UPDATE_BYTES"]
QFLARE_UPLOAD_PIECE_BYTES = ENVIRONMENT["QFLARE_UPLOAD_PIECE_BYTES"]
QFLARE_EVALUATION_SECONDS = ENVIRONMENT["QFLARE_EVALUATION_SECONDS"]
QFLARE_RETENTION = {
    "session_days": ENVIRONMENT["QFLARE_RETENTION_SESSION_DAYS"],
    "disclosure_days": ENVIRONMENT["QFLARE_RETENTION_DISCLOSURE_DAYS"],
}
QFLARE_ENCLAVE_ATTESTER = ENVIRONMENT["QFLARE_ENCLAVE_ATTESTER"]
QFLARE_ENCLAVE_PLATFORMS = ENVIRONMENT["QFLARE_ENCLAVE_PLATFORMS"]
QFLARE_ENCLAVE_UID = ENVIRONMENT["QFLARE_ENCLAVE_UID"]
QFLARE_ENCLAVE_GID = ENVIRONMENT["QFLARE_ENCLAVE_GID"]
QFLARE_ENCLAVE_REQUEST_SECONDS = ENVIRONMENT["QFLARE_ENCLAVE_REQUEST_SECONDS"]

# Notifications
mail_server = smtp_settings(ENVIRONMENT["QFLARE_SMTP_URL"])
EMAIL_BACKEND, EMAIL_TIMEOUT = mail_server["backend"], 5
EMAIL_HOST, EMAIL_PORT = mail_server["host"], mail_server["port"]
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = mail_server["user"], mail_server["password"]
EMAIL_USE_SSL, EMAIL_USE_TLS = mail_server["tls"], mail_server["starttls"]
DEFAULT_FROM_EMAIL = ENVIRONMENT["QFLARE_EMAIL_FROM"]

# Celery
CELERY_BROKER_URL = "atomic-filesystem://" if EMBEDDED else ENVIRONMENT["REDIS_URL"]
CELERY_BROKER_TRANSPORT_OPTIONS = (
    filesystem_broker_options(QFLARE_BROKER_DIR)
    if EMBEDDED
    else redis_broker_options(ENVIRONMENT["QFLARE_REDIS_PREFIX"])
)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_ROUTES = {
    "training.tasks.aggregate_round": {"queue": "enclave"},
    "training.tasks.run_range_step": {"queue": "enclave"},
    "training.tasks.prepare_round": {"queue": "enclave"},
    "enclave.*": {"queue": "enclave"},
    "audit.*": {"queue": "audit"},
}
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"
CELERY_ENABLE_UTC = True
CELERY_BEAT_SCHEDULER = "qflare_site.beat_scheduler:SteadyScheduler"
CELERY_BEAT_MAX_LOOP_INTERVAL = 1
CELERY_BEAT_SCHEDULE = {
    name: {
        "task": task,
        "schedule": timedelta(seconds=seconds),
        # One that waited longer than this has been repeated since: after an outage, no flood of old ones.
        "options": {"expire_seconds": max(10, seconds)},  # as django_celery_beat calls it
    }
    for name, task, seconds in [
        ("training-tick", "training.tasks.tick", 1),
        ("audit-sequence", "audit.tasks.sequence", 2),
        ("monitor-watch", "monitor.tasks.watch", 5),
        ("monitor-deliver", "monitor.tasks.deliver", 5),
        ("audit-anchor", "audit.tasks.anchor", 60),
        ("beat-heartbeat", "qflare_site.tasks.record_beat_heartbeat", 3),
        ("sessions-sweep", "sessions.tasks.sweep_sessions", 60),
        ("blobs-sweep", "training.tasks.sweep_blobs", 600),
        ("enclave-keys-sweep", "enclave.tasks.destroy_retired_keys", 30),
        ("enrolment-sweep", "enrollment.tasks.delete_expired_attempts", 60),
        ("approvals-expire", "operator_access.tasks.expire_approvals", 600),
        ("sessions-archive", "sessions.tasks.archive_sessions", 86_400),
        ("disclosures-archive", "audit.tasks.archive_disclosures", 86_400),
    ]
}

# Logs
LOGGING_CONFIG = "logging.config.dictConfig"
LOGGING = logging_config(ENVIRONMENT["QFLARE_LOG_LEVEL"])
