"""The far end's part: sent there on standard input and run by any Python from 3.6 on; nothing of it stays there.

It reads one request in JSON and prints one answer in JSON. It follows no link below the folder it is asked about.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from typing import IO, Any

CHUNK_BYTES = 1 << 20
MOST_RESULT_BYTES = 1 << 26
INCOMING = ".band-incoming"
RESULT, ABSENT = "result.json", ".absent.json"


class Refused(Exception):
    """A request that cannot be done, in words for the user."""


def far_path(path: str, *, start: str = "") -> str:
    """Return an absolute path: "~" is the home here, and relative ones begin at `start`, or there."""
    home = os.path.expanduser("~")
    return os.path.realpath(os.path.join(home, os.path.expanduser(start), os.path.expanduser(path)))


def sha256_of(path: str) -> str:
    """Return the sha256 of a regular file."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        for chunk in iter(lambda: file.read(CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()


def open_regular(path: str) -> "IO[bytes]":
    """Open a regular file, never what a link points to."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise Refused(path + " is no regular file")
    return file


def kind_of(path: str) -> str:
    """Return "file", "folder", "link", "other", or "" where nothing is."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return ""
    kinds = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISLNK, "link"))
    return next((name for is_kind, name in kinds if is_kind(mode)), "other")


def make_folder(path: str) -> None:
    """Make a folder and those above it."""
    try:
        os.makedirs(path)
    except OSError as error:
        if error.errno != errno.EEXIST or not os.path.isdir(path):
            raise


def read_text(path: str) -> "str | None":
    """Return what a text file holds, None where there is none."""
    if kind_of(path) != "file":
        return None
    with open_regular(path) as file:
        return file.read().decode("utf-8")


# --- a sweep and its runs ---------------------------------------------------------------------------------------------


def list_sweep(request: "dict[str, Any]") -> "dict[str, Any]":
    """Return the published runs of a sweep, with sizes and digests; of runs in "known" only that they are the same."""
    sweep = far_path(request["path"], start=request.get("start", ""))
    manifest = read_text(os.path.join(sweep, "manifest.jsonl"))
    if manifest is None:
        raise Refused(f"{sweep} is no sweep: it has no manifest.jsonl")
    folder = os.path.join(sweep, "runs")
    if kind_of(folder) == "link":
        raise Refused(f"{folder} is a link, and links are not followed")
    runs, bad = {}, {}
    for name in sorted(os.listdir(folder)) if kind_of(folder) == "folder" else []:
        if not name.startswith("."):
            try:
                runs[name] = look_at_run(os.path.join(folder, name), known=request["known"].get(name, ""))
            except (Refused, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                bad[name] = str(error) or repr(error)
    has_it = hashlib.sha256(manifest.encode()).hexdigest() == request.get("manifest_sha256")
    return {
        "path": sweep,
        "manifest": None if has_it else manifest,
        "sweep_yaml": None if has_it else read_text(os.path.join(sweep, "sweep.yaml")),
        "runs": runs,
        "bad": bad,
        "logs": list_logs(os.path.join(sweep, "logs")) if request.get("logs") else [],
        "tasks": list_tasks(os.path.join(sweep, "tasks")) if request.get("logs") else {},
    }


def look_at_run(folder: str, *, known: str) -> "dict[str, Any]":
    """Return what a published run consists of."""
    if kind_of(folder) != "folder":
        raise Refused(f"{folder} is a {kind_of(folder)}, not a folder")
    with open_regular(os.path.join(folder, RESULT)) as file:
        data = file.read(MOST_RESULT_BYTES)
    sha256 = hashlib.sha256(data).hexdigest()
    if known == sha256:
        return {"sha256": sha256}
    result = json.loads(data.decode("utf-8"))
    manifest = {name: [int(entry["size"]), str(entry["sha256"])] for name, entry in result["manifest"].items()}
    absent = json.loads(read_text(os.path.join(folder, ABSENT)) or '{"files": []}')["files"]
    # One that is there all the same was to be removed, or had just come, when somebody was killed.
    absent = [name for name in absent if kind_of(os.path.join(folder, name)) == ""]
    for name, (size, _) in manifest.items():
        path = os.path.join(folder, name)
        found = kind_of(path)
        if not (found == "" and name in absent) and (found != "file" or os.lstat(path).st_size != size):
            why = "a link" if found == "link" else "not what its manifest says"
            raise Refused(f"{path} is {why}")
    return {
        "sha256": sha256,
        "size": len(data),
        "outcome": str(result.get("training", {}).get("outcome", "")),
        "files": manifest,
        "absent": absent,
    }


def list_logs(folder: str) -> "list[Any]":
    """Return name and size of each log."""
    if kind_of(folder) != "folder":
        return []
    paths = [(name, os.path.join(folder, name)) for name in sorted(os.listdir(folder))]
    return [[name, os.lstat(path).st_size] for name, path in paths if kind_of(path) == "file"]


def list_tasks(folder: str) -> "dict[str, list[str]]":
    """Return the runs of each task, so far as it says which: logs are a task's."""
    tasks = {}
    for name in sorted(os.listdir(folder)) if kind_of(folder) == "folder" else []:
        try:
            task = json.loads(read_text(os.path.join(folder, name, "task.json")) or "{}")
            tasks[name] = [str(run["id"]) for run in task["runs"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return tasks


def clear_runs(request: "dict[str, Any]") -> "dict[str, Any]":
    """Remove all but result.json of runs that are what the request says, each file read once more before."""
    folder = os.path.join(far_path(request["path"]), "runs")
    cleared, kept = [], {}
    for name, wanted in request["runs"].items():
        run = os.path.join(folder, name)
        try:
            if "/" in name or kind_of(folder) != "folder":
                raise Refused("it is no run of this sweep")
            found = look_at_run(run, known="")
            if found["sha256"] != wanted:
                raise Refused("it is not the run that is at home")
            files = [entry for entry in found["files"] if entry not in found["absent"]]
            for entry in files:
                if sha256_of(os.path.join(run, entry)) != found["files"][entry][1]:
                    raise Refused(f"{os.path.join(run, entry)} is not what its manifest says")
            write_new(os.path.join(run, ABSENT), {"schema": 1, "files": sorted(found["files"])})
            for entry in files:
                os.unlink(os.path.join(run, entry))
            cleared.append(name)
        except (Refused, OSError, ValueError, KeyError, TypeError) as error:
            kept[name] = str(error)
    return {"cleared": cleared, "kept": kept}


def write_new(path: str, value: "object") -> None:
    """Write JSON, or text, as a whole, and put it in its place."""
    temporary = f"{path}.{os.getpid()}.tmp"
    text = value if isinstance(value, str) else json.dumps(value)
    with open(temporary, "wb") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


# --- files that are brought here --------------------------------------------------------------------------------------


def target_of(request: "dict[str, Any]") -> "tuple[str, list[str]]":
    """Return the folder that files are to come into, and their names below it."""
    folder = far_path(request["folder"], start=request.get("start", ""))
    names = [entry["name"] for entry in request["files"]]
    is_one = len(names) == 1 and request.get("may_rename") and not request["folder"].endswith("/")
    if is_one and not os.path.isdir(folder):
        folder, name = os.path.split(folder)
        names = [name]
    if any(part in ("", ".", "..") for name in names for part in name.split("/")):
        raise Refused("a name leaves its folder")
    return folder, names


def incoming_of(folder: str, *, is_whole: bool) -> str:
    """Return where files wait, each under its sha256, until all of it is right."""
    return os.path.join(os.path.dirname(folder) if is_whole else folder, INCOMING)


def offer_files(request: "dict[str, Any]") -> "dict[str, Any]":
    """Return what is here already of files that are to come, and where rsync is to put the others.

    With "is_whole" the folder is there or not; with "reuse" a file of that content counts under any name.
    """
    folder, names = target_of(request)
    is_whole = bool(request.get("is_whole"))
    incoming = incoming_of(folder, is_whole=is_whole)
    states = []
    for name, entry in zip(names, request["files"]):
        path = os.path.join(folder, name)
        state = "same" if is_whole and os.path.isdir(folder) else state_of(path, entry)
        if request.get("reuse") and state != "same":
            path, state = same_content(folder, entry) or (path, state)
        waiting = os.path.join(incoming, entry["sha256"])
        arrived = os.lstat(waiting).st_size if kind_of(waiting) == "file" else 0
        states.append({"path": path, "state": state, "arrived": arrived})
    if not request.get("is_dry_run") and any(entry["state"] == "new" for entry in states):
        make_folder(incoming)
    return {"folder": folder, "incoming": incoming, "files": states}


def state_of(path: str, entry: "dict[str, Any]") -> str:
    """Return "new", "same" or "differs"."""
    if not os.path.lexists(path):
        return "new"
    is_same = kind_of(path) == "file" and os.lstat(path).st_size == entry["size"]
    return "same" if is_same and sha256_of(path) == entry["sha256"] else "differs"


def same_content(folder: str, entry: "dict[str, Any]") -> "tuple[str, str] | None":
    """Return path and state of a file in a folder that holds what is to come."""
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name)
        if not name.startswith(".") and state_of(path, entry) == "same":
            return path, "same"
    return None


def place_files(request: "dict[str, Any]") -> "dict[str, Any]":
    """Put files that have come where they belong, if they are what was sent; nothing that is there is replaced."""
    folder, names = target_of(request)
    is_whole = bool(request.get("is_whole"))
    incoming = incoming_of(folder, is_whole=is_whole)
    for entry in request["files"]:
        path = os.path.join(incoming, entry["sha256"])
        if kind_of(path) != "file" or sha256_of(path) != entry["sha256"]:
            if kind_of(path) == "file" and os.lstat(path).st_size >= entry["size"]:
                os.unlink(path)
            raise Refused("{} did not arrive as it was sent; send it again".format(entry["name"]))
    base = os.path.join(incoming, f"{os.getpid()}.tmp") if is_whole else folder
    for name, entry in zip(names, request["files"]):
        path = os.path.join(base, name)
        make_folder(os.path.dirname(path))
        try:
            os.link(os.path.join(incoming, entry["sha256"]), path)
        except OSError as error:
            if error.errno != errno.EEXIST or state_of(path, entry) != "same":
                raise
    if is_whole:
        put_whole(base, folder)
    os.sync() if hasattr(os, "sync") else None
    for sha256 in {entry["sha256"] for entry in request["files"]}:
        os.unlink(os.path.join(incoming, sha256))
    if not os.listdir(incoming):
        os.rmdir(incoming)
    return {"paths": [os.path.join(folder, name) for name in names]}


def put_whole(source: str, folder: str) -> None:
    """Give a folder its name, unless another was faster."""
    try:
        os.rename(source, folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        shutil.rmtree(source)


def read_sweep(request: "dict[str, Any]") -> "dict[str, Any]":
    """Return the manifest of a sweep, None where there is none."""
    path = far_path(request["path"], start=request.get("start", ""))
    return {"path": path, "manifest": read_text(os.path.join(path, "manifest.jsonl"))}


def write_sweep(request: "dict[str, Any]") -> "dict[str, Any]":
    """Write a sweep's manifest and file, if the manifest is still what the request says."""
    path = far_path(request["path"], start=request.get("start", ""))
    manifest = os.path.join(path, "manifest.jsonl")
    if read_text(manifest) != request["expected"]:
        raise Refused(f"{manifest} has changed meanwhile; give the same command again")
    make_folder(path)
    if request["sweep_yaml"] is not None:
        write_new(os.path.join(path, "sweep.yaml"), request["sweep_yaml"])
    write_new(manifest, request["manifest"])
    return {"path": path}


# --- band itself ------------------------------------------------------------------------------------------------------

START = (
    "import sys; code = sys.argv.pop(1); sys.path[:1] = [code] if code else []; "
    "from band.cli.sweep import main; raise SystemExit(main())"
)


def run_band(request: "dict[str, Any]") -> "dict[str, Any]":
    """Become `band-sweep` with the words given, of the code given or whichever is found."""
    start = far_path(request.get("start", ""))
    sweep = far_path(request["path"], start=start)
    code = os.path.join(sweep, "code", request["code"]) if request["code"] else ""
    tried = []
    for python in [request["python"]] if request["python"] else pythons_for(sweep):
        python = os.path.join(start, os.path.expanduser(python)) if "/" in python else shutil.which(python)
        for place in [code] if code else ["", *snapshots_of(sweep)]:
            problem = why_not(python, place, request["needs"]) if python else "not found"
            if not problem:
                become(python, place, start, [request["words"][0], sweep, *request["words"][1:]])
            tried.append(f"{python}: {problem}")
    raise Refused("no Python here can run band ({})".format("; ".join(tried[:3])))


def pythons_for(sweep: str) -> "list[Any]":
    """Return interpreters that may have band: those of environments above the sweep, then what is on the path."""
    found, folder = [], sweep
    while folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
        path = os.path.join(folder, ".venv/bin/python")
        found += [path] if os.path.exists(path) and is_trusted(folder, path) else []
    return [*found, "python3"]


def is_trusted(folder: str, path: str) -> bool:
    """Return whether a program in a folder, and what lies between, are this user's or root's, and not open to all."""
    while path != folder:
        found = os.lstat(path)
        is_open = not stat.S_ISLNK(found.st_mode) and found.st_mode & stat.S_IWOTH
        if found.st_uid not in (0, os.getuid()) or is_open:
            return False
        path = os.path.dirname(path)
    return True


def snapshots_of(sweep: str) -> "list[Any]":
    """Return the copies of the code that the sweep has, the newest first."""
    folder = os.path.join(sweep, "code")
    names = [name for name in os.listdir(folder) if not name.startswith(".")] if kind_of(folder) == "folder" else []
    return sorted((os.path.join(folder, name) for name in names), key=os.path.getmtime, reverse=True)


def why_not(python: str, code: str, needs: "list[str]") -> str:
    """Return why an interpreter cannot run band, "" where it can."""
    program = (
        "import sys; names = sys.argv[2:]; sys.path[:1] = sys.argv[1:2] if sys.argv[1] else []; "
        "import importlib.util as u; lacks = [name for name in names if u.find_spec(name) is None]; "
        "sys.exit('is ' + sys.version.split()[0] if sys.version_info < (3, 10) else "
        "'lacks ' + ', '.join(lacks) if lacks else 0)"
    )
    command = [python, "-c", program, code, "band", *needs]
    try:
        subprocess.check_output(command, stderr=subprocess.STDOUT)
    except subprocess.CalledProcessError as error:
        return str((error.output.decode("utf-8", "replace").strip().splitlines() or ["?"])[-1])
    except OSError as error:
        return str(error)
    return ""


def become(python: str, code: str, folder: str, words: "list[str]") -> None:
    """Replace this process."""
    os.chdir(folder)
    if code:
        os.environ["PYTHONPATH"] = code
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout.flush()
    os.execv(python, [python, "-c", START, code, *words])


OPERATIONS = {
    "list": list_sweep,
    "clear": clear_runs,
    "offer": offer_files,
    "place": place_files,
    "read": read_sweep,
    "write": write_sweep,
    "band": run_band,
}


def main() -> int:
    """Answer the request on standard input; 0 where there is an answer, a refusal being one."""
    request = json.loads(sys.stdin.buffer.read().decode("utf-8"))
    try:
        answer = OPERATIONS[request["op"]](request)
    except (Refused, OSError, UnicodeDecodeError) as error:
        answer = {"error": str(error)}
        if request["op"] == "band":
            sys.stderr.write(f"error: {error}\n")
            return 3
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
