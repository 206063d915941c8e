"""The site's settings for tests: the profile of the environment, in a data directory that is thrown away."""

import atexit
import os
import shutil
import tempfile

_folder = tempfile.mkdtemp(prefix="qflare-test-")
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
os.environ["QFLARE_DATA_DIR"] = _folder
os.environ["QFLARE_INSECURE_HTTP"] = "1"
os.environ["QFLARE_ACKNOWLEDGE_FILE_KEK"] = "1"
os.environ["QFLARE_REDIS_PREFIX"] = f"qflare-test-{os.getpid()}"  # test processes share a Redis
# Most tests sign in without a password; those of operator_access ask for all that a site asks for.
os.environ["QFLARE_REQUIRE_SECOND_FACTOR"] = "0"
os.environ["QFLARE_FRESH_SIGN_IN_SECONDS"] = "0"
os.environ.setdefault("SECRET_KEY", "only-for-tests-" + "0123456789" * 5)

from qflare_site.settings import *  # noqa: E402, F403 - the environment has to be set first

ALLOWED_HOSTS = ["testserver", "127.0.0.1", "localhost"]
# Strong password hashing is slow on purpose; no test is about it.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

if EMBEDDED:  # noqa: F405
    # A file as in production: the in-memory database that Django would use answers a lock with an error, not a wait.
    DATABASES["default"]["TEST"] = {"NAME": os.path.join(_folder, "test.sqlite3")}  # noqa: F405, PTH118
