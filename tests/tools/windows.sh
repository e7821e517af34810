#!/usr/bin/env bash
# Tries Vessages with the Windows build of Python under wine, on a Debian machine. The C runtime, the console and the
# sockets are wine's, so what is right here is likely, and not certain, on Windows.
#
#   tests/tools/windows.sh FOLDER            all of it; FOLDER (at least 1 GB) is made, and may be used again
#   tests/tools/windows.sh FOLDER programs   a conversation, refusals, backups, a kill and a resume
#   tests/tools/windows.sh FOLDER suite [FILE ...]   the suite's short form, file by file, or these files of it
#   tests/tools/windows.sh FOLDER python ARGUMENT ...   that Python, in a copy of the project
#   tests/tools/windows.sh FOLDER console ARGUMENT ...  the same in a console on this X display: one window takes what
#                                                      is typed, an xterm shows what is drawn
#
# PYTHON_VERSION=3.10 to 3.13 chooses another Python than 3.11. The interpreter comes out of a wheel of panda3d, which
# carries the files of python.org for its own packages; its library is that of this machine's Python of the same
# minor version.
set -euo pipefail

usage() { sed -n 's/^# \{0,1\}//; 2,/^$/p' "$0"; exit 2; }
[ $# -gt 0 ] || usage
project=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
version=${PYTHON_VERSION:-3.11}
wine=/usr/lib/wine/wine64
export WINEPREFIX=$folder/wine WINEDEBUG=-all
drive=$WINEPREFIX/drive_c
home=$drive/python-$version

# --- What it needs ---

install_packages() {
  [ -x "$wine" ] && [ -x "$(command -v x86_64-w64-mingw32-gcc)" ] && [ -x "$(command -v unzip)" ] && return
  apt-get update -q
  apt-get install -y -q --no-install-recommends wine64 wine gcc-mingw-w64-x86-64 openssl unzip
}

find_python() {  # the first that really runs: a version manager may have a name for one that is not chosen
  local candidate
  for candidate in "$HOME"/.pyenv/versions/"$version".*/bin/python "python$version"; do
    if "$candidate" -m pip --version >/dev/null 2>&1; then echo "$candidate"; return; fi
  done
  echo "no Python $version with pip here, whose library is needed" >&2
  return 1
}

download() {  # wheels for Windows
  "$python" -m pip download -q --only-binary :all: --platform win_amd64 --python-version "$version" "$@"
}

make_python() {
  [ -e "$home/complete" ] && return
  local python wheels=$folder/wheels-$version short=${version/./}
  python=$(find_python)
  mkdir -p "$home" "$wheels"
  [ -d "$drive/windows" ] || wineboot -i
  download --no-deps -d "$wheels" panda3d
  unzip -qjo "$wheels"/panda3d-*.whl 'deploy_libs/*.pyd' 'deploy_libs/*.dll' -d "$home"
  rm "$wheels"/panda3d-*.whl
  cp -r "$("$python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" "$home/Lib"
  rm -rf "$home"/Lib/{test,idlelib,lib-dynload,ensurepip,site-packages}
  download -d "$wheels" -r "$project/tests/requirements.txt" colorama
  for wheel in "$wheels"/*.whl; do unzip -qo "$wheel" -d "$home/Lib/site-packages"; done
  x86_64-w64-mingw32-gcc -municode -x c - -x none "$home/python$short.dll" -o "$home/python.exe" <<<'
    #include <wchar.h>
    __declspec(dllimport) int Py_Main(int, wchar_t **);
    int wmain(int argc, wchar_t **argv) { return Py_Main(argc, argv); }'
  touch "$home/complete"
}

# wine's own faults.
work_around_wine() {
  cat >"$home/Lib/site-packages/sitecustomize.py" <<'PYTHON'
import errno
import io
import msvcrt
import os
import sys

locking = msvcrt.locking


def locking_with_reason(*arguments):  # wine gives another errno for a lock that is taken than Windows
    try:
        locking(*arguments)
    except OSError:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None


msvcrt.locking = locking_with_reason


def no_link(*arguments, **options):  # wine says that it has made one, and makes none
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


os.symlink = no_link
access = os.access
os.access = lambda path, *rest, **more: path != "/dev/shm" and access(path, *rest, **more)  # wine finds that of Linux


class Screen(io.RawIOBase):  # wine's console draws no sequences: they go to a file, which a terminal shows
    def __init__(self):
        self.file = open(os.environ["SCREEN_FILE"], "ab", 0)

    def writable(self):
        return True

    def write(self, data):
        return self.file.write(data)

    def fileno(self):
        return 1

    def isatty(self):
        return True


if "SCREEN_FILE" in os.environ:
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(Screen()), encoding="utf-8", line_buffering=True)
PYTHON
}

# openssl.exe: the openssl of Linux. wine starts it, but knows neither its end nor its output; and files have other
# names for it.
make_openssl() {
  cat >"$folder/openssl" <<SHELL
drive=$drive
result=\$1
shift
for word; do
  shift
  case \$word in C:*) word=\$drive\$(printf %s "\${word#C:}" | tr '\\\\' /) ;; esac
  set -- "\$@" "\$word"
done
said=\$(openssl "\$@" 2>/dev/null)
printf '%s\n' \$? "\$said" >"\$drive\${result#C:}.new"
mv "\$drive\${result#C:}.new" "\$drive\${result#C:}"
SHELL
  x86_64-w64-mingw32-gcc -municode -DSCRIPT="L\"$folder/openssl\"" -x c - -o "$drive/windows/openssl.exe" <<<'
    #include <stdio.h>
    #include <windows.h>
    int wmain(int argc, wchar_t **argv) {
      wchar_t line[8192], result[64];
      STARTUPINFOW start = {sizeof start};
      PROCESS_INFORMATION process;
      int code = 1;
      swprintf(result, 64, L"C:/temp/openssl-%lu", GetCurrentProcessId());
      swprintf(line, 8192, L"sh \"%ls\" %ls", SCRIPT, result);
      for (int i = 1; i < argc; i++) swprintf(line + wcslen(line), 8192 - wcslen(line), L" \"%ls\"", argv[i]);
      if (!CreateProcessW(L"Z:\\bin\\sh", line, NULL, NULL, TRUE, 0, NULL, NULL, &start, &process)) return 1;
      for (int i = 0; i < 3000; i++, Sleep(20)) {
        FILE *file = _wfopen(result, L"r");
        if (file == NULL) continue;
        fscanf(file, "%d\n", &code);
        for (int letter; (letter = fgetc(file)) != EOF;) putchar(letter);
        fclose(file);
        _wremove(result);
        break;
      }
      return code;
    }'
}

copy_project() {
  rm -rf "$drive/vessages"
  mkdir -p "$drive/vessages" "$drive/temp"
  cp -r "$project"/{vessages,protocol,storage,client}.py "$project"/{README.md,pyproject.toml,tests,.ci,.readme} "$drive/vessages"
  find "$drive/vessages" -name __pycache__ -prune -exec rm -r {} +
}

# The way in and out has to be a pipe or a console under wine, no file. In C:\vessages, or $at.
begin_python() {
  cd "${at:-$drive/vessages}"
  TMP='C:\temp' TEMP='C:\temp' exec "$wine" "C:\\python-$version\\python.exe" "$@"
}

windows_python() { cat | (begin_python "$@") 2>&1 | cat; }

# --- The programs ---

failures=0
expect() { # WORDS COMMAND ...: whether they are in what it prints
  local words=$1 said
  shift
  said=$("$@" 2>&1 | tr -d '\r') || true
  if grep -qF -- "$words" <<<"$said"; then echo "ok      $words"; else
    echo "FAILED  no '$words' in what this says: $*"
    echo "$said"
    failures=$((failures + 1))
  fi
}

wait_for() { # WORDS FILE
  local words=$1 file=$2 tries
  for tries in $(seq 1200); do grep -qF -- "$words" "$file" 2>/dev/null && return; sleep 0.1; done
  echo "FAILED  '$words' never came in $file" >&2
  cat "$file"
  return 1
}

start_server() { # PORT
  (begin_python vessages.py 127.0.0.1 "$1" --grace 30) < <(:) > >(cat >"$folder/server.log") 2>&1 &
  server=$!
  wait_for "Ctrl-C stops" "$folder/server.log"
}

windows_client() { windows_python client.py 127.0.0.1 "$port" "$@"; }
linux_client() { env HOME="$folder" "$(find_python)" "$project/client.py" 127.0.0.1 "$port" "$@"; }
storage() { windows_python storage.py "$@"; }

try_programs() {
  port=$("$(find_python)" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  password=pässwörd-中
  rm -rf "$drive/trial"
  mkdir "$drive/trial"
  cp "$project"/{vessages,protocol,storage,client}.py "$drive/trial"
  at=$drive/trial
  trap 'kill -9 $server 2>/dev/null || true' EXIT
  for program in vessages client storage; do expect "usage: $program.py" windows_python "$program.py" --help; done

  start_server "$port"
  expect "is in use" windows_python vessages.py 127.0.0.1 "$port" --db other.db
  expect "in use by a running server" windows_python vessages.py 127.0.0.1 0
  printf 'REGISTER zoë %s\nREGISTER windows %s\nREGISTER linux %s\n' $password $password $password >"$folder/register"
  expect "zoë is registered" windows_client <"$folder/register"
  printf 'LOGIN zoë %s\nSEND zoë hé 中 👍\n' $password >"$folder/say"
  expect "zoë: hé 中 👍" windows_client <"$folder/say"
  expect "zoë: hé 中 👍" linux_client <"$folder/say"
  expect '"text": "h\u00e9 \u4e2d' windows_client --json <"$folder/say"

  export VESSAGES_PASSWORD=$password
  rm -f "$folder/enough"
  for system in windows linux; do
    while [ ! -e "$folder/enough" ]; do sleep 0.2; done | "${system}_client" --user "$system" >"$folder/$system.log" &
    wait_for "you are $system" "$folder/$system.log"
  done
  kill -9 "$server"
  start_server "$port"
  for system in windows linux; do
    wait_for "back as $system" "$folder/$system.log"
    expect "back as $system" cat "$folder/$system.log"
  done
  expect "to Linux" windows_client --user zoë --to linux <<<"to Linux"
  expect "from Windows" windows_client --user zoë --to windows <<<"from Windows"
  for system in windows linux; do expect "zoë: " cat "$folder/$system.log"; done
  touch "$folder/enough"

  expect "backups\\vessages-" storage backup --keep 2
  expect "whole, 3 accounts" storage verify
  expect "zoë" storage list
  backup=$(cd "$at/backups" && echo vessages-*)
  expect "in use by a running server" storage restore "backups/$backup"
  kill -9 "$server"
  wait
  expect "zo\\u00eb" storage export
  expect "zoë is removed" storage remove zoë
  expect "+1 account" storage restore "backups/$backup"
  echo "$failures failures"
  return $((failures > 0))
}

# --- The suite ---

try_suite() { # [FILE ...]: from the project's folder
  local file result status=0
  [ $# -gt 0 ] || mapfile -t files < <(cd "$project" && find tests -name 'test_*.py' | sort)
  [ $# -eq 0 ] || files=("$@")
  for file in "${files[@]}"; do
    HYPOTHESIS_PROFILE=short windows_python -m pytest --processes 1 -p no:cacheprovider "$file" \
      </dev/null >"$folder/result" || true
    result=$(tr -d '\r' <"$folder/result" | grep -E '(passed|failed|skipped|error).* in [0-9.]+s' | tail -n 1) ||
      result="hung: $(grep -o 'in test_.*' "$folder/result" | head -n 1)" || result="hung: see the log"
    echo "$file: $result"
    if grep -qE 'failed|error|hung' <<<"$result"; then
      status=1
      cp "$folder/result" "$folder/failed-$(basename "$file").log"
    fi
  done
  return $status
}

# --- A person ---

try_console() {
  rm -f "$drive/screen"
  touch "$drive/screen"
  xterm -geometry 80x25 -e tail -c +1 -f "$drive/screen" &
  cd "$drive/vessages"
  SCREEN_FILE='C:\screen' "$wine" wineconsole "C:\\python-$version\\python.exe" "$@" || true
  kill $!
}

# --- What was asked for ---

what=${1:-all}
[ $# -eq 0 ] || shift
install_packages
make_python
work_around_wine
make_openssl
copy_project
case $what in
  all) try_programs; try_suite ;;
  programs) try_programs ;;
  suite) try_suite "$@" ;;
  python) windows_python "$@" ;;
  console) try_console "$@" ;;
  *) usage ;;
esac
