# What can be done here, each by one command. `./justw RECIPE` runs a recipe on
# a machine without `just`. Works with just 1.21 and later.

set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments := true

# The Podman bindings need these tags. They are also in .golangci.yml,
# .vscode/settings.json and README.md.
tags := "remote,exclude_graphdriver_btrfs,exclude_graphdriver_devicemapper,containers_image_openpgp"

export GOFLAGS := "-buildvcs=false -tags=" + tags
# Lets an older Go (1.21 and later) fetch the one that go.mod names.
export GOTOOLCHAIN := "auto"
export PATH := env_var_or_default("GOPATH", env_var("HOME") / "go") / "bin:" + env_var("PATH") + ":/usr/local/go/bin:/usr/sbin:/sbin"

golangci_version := "v2.15.0"
pebble_version := "v2.10.1"
versitygw_version := "v1.8.0"

# List the recipes
default:
    @{{ quote(just_executable()) }} --list --unsorted

# Install what is missing to build and run
setup: (_packages "run") _go
    @go mod download

# Build bin/fluxgate, and the hello example's binary
build:
    #!/usr/bin/env bash
    set -euo pipefail
    version=$(git describe --tags --always --dirty 2>/dev/null || echo dev)
    export CGO_ENABLED=0
    # First the static server: bin/fluxgate carries it inside.
    go build -trimpath -ldflags "-s -w" -o podman/site/bin/serve ./podman/site/serve
    go build -trimpath -ldflags "-s -w" -o examples/hello/hello ./examples/hello
    go build -trimpath -ldflags "-s -w -X main.version=$version" -o bin/fluxgate ./cli/fluxgate
    echo "built bin/fluxgate $version"

# Install, build, run the gateway here, push examples/hello and say where it is; ARGS go to `fluxgate up`
up *ARGS: setup build
    #!/usr/bin/env bash
    set -euo pipefail
    # Reads what the gateway prints, passes it on, and pushes once it is ready.
    # It ignores ^C: it ends with the gateway, whose last lines it still prints.
    pass_on() {
        trap '' INT TERM HUP
        root=
        while IFS= read -r line; do
            printf '%s\n' "$line"
            case $line in
            root*) read -r _ root _ <<<"$line" ;;
            ready*) push_hello "$root" ;;
            esac
        done
    }
    push_hello() {
        local address fluxgate=(bin/fluxgate --context local)
        if ! "${fluxgate[@]}" push examples/hello; then
            echo "examples/hello was not pushed; the gateway goes on. Try again in another terminal: bin/fluxgate push examples/hello" >&2
            return
        fi
        address=$("${fluxgate[@]}" open hello)
        printf '\nopen       %s\nor         curl --cacert %s %s\nstop       ^C\n\n' "$address" "$1" "$address"
    }
    # The gateway takes this process's place, so that signals reach it directly.
    exec bin/fluxgate up "$@" > >(pass_on)

# Install, build, and run all tests, those with real Podman, Redis, ACME and S3 among them
test: setup (_packages "test") build _pebble _versitygw
    CGO_ENABLED=1 go test -race -timeout 40m ./...

# Check code, scripts, import rules and generated pages
lint: _go (_packages "lint") _golangci _static_server
    #!/usr/bin/env bash
    set -euo pipefail
    golangci-lint run
    shellcheck justw .ci/run
    # `docs` again must change nothing.
    before=$(cat README.md docs/*.md | sha256sum)
    go run ./cli/docs
    if [ "$before" != "$(cat README.md docs/*.md | sha256sum)" ]; then
        echo "the generated pages were out of date: 'just docs' has just brought them up to date, commit them" >&2
        exit 1
    fi

# Format all Go code
fmt: _go _golangci
    golangci-lint fmt

# Generate the references in docs/ and README.md from the code
docs: _go _static_server
    go run ./cli/docs

# Measure, beside the reference of each number; `just bench --help` lists what, --write updates docs/benchmarks.md
bench *ARGS: setup (_packages "bench") build
    CGO_ENABLED=0 go build -trimpath -o bin/loadtest ./loadtest
    bin/loadtest "$@"

[private]
_static_server:
    @CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o podman/site/bin/serve ./podman/site/serve

# Installs the packages that are missing, from Debian's or Ubuntu's archive.
[private]
_packages what:
    #!/usr/bin/env bash
    set -euo pipefail
    PATH=$PATH:/usr/lib/podman:/usr/libexec/podman
    missing=()
    # need PACKAGE COMMAND…: one of the commands must be there.
    need() {
        local package=$1 command
        shift
        for command in "$@"; do
            command -v "$command" >/dev/null && return
        done
        missing+=("$package")
    }
    case $1 in
    run)
        need podman podman
        need runc runc
        need crun crun
        need conmon conmon
        need netavark netavark
        need aardvark-dns aardvark-dns
        need iptables iptables
        need iproute2 ip
        need redis-server redis-server valkey-server
        need curl curl
        [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ] || missing+=(ca-certificates)
        if [ "$(id -u)" -ne 0 ]; then
            need uidmap newuidmap
            need slirp4netns slirp4netns pasta
        fi
        ;;
    test)
        need busybox-static busybox
        need skopeo skopeo
        need gcc gcc # for the race detector
        need openssh-client ssh-keygen
        if [ ! -x /usr/sbin/sshd ]; then # the tests run it in namespaces of their own; this machine's shall not start
            missing+=(openssh-server)
            [ "$(id -u)" -ne 0 ] || { mkdir -p /etc/ssh && touch /etc/ssh/sshd_not_to_be_run; }
        fi
        [ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
        ;;
    lint) need shellcheck shellcheck ;;
    bench)
        need haproxy haproxy
        need wrk wrk
        ;;
    esac
    [ ${#missing[@]} -gt 0 ] || exit 0
    if ! command -v apt-get >/dev/null; then
        echo "missing here: ${missing[*]} (the names of Debian's packages). Install them with this system's package manager, then run this again." >&2
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "missing here: ${missing[*]}. Installing them needs root, and there is no sudo: run as root: apt-get install ${missing[*]}" >&2
            exit 1
        fi
        as_root=(sudo)
    fi
    echo "installing ${missing[*]}"
    apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o Dpkg::Use-Pty=0 "$@" >/dev/null; }
    apt update
    apt install --no-install-recommends "${missing[@]}"

# Sees to a Go that can build this, or says which one to install.
[private]
_go:
    #!/usr/bin/env bash
    set -euo pipefail
    wanted=$(sed -n 's/^go //p' go.mod)
    fail() {
        echo "$1 Install Go $wanted or later from https://go.dev/dl/ (unpacked to /usr/local/go it is found), then run this again." >&2
        exit 1
    }
    if ! command -v go >/dev/null; then
        # Debian 13 and Ubuntu 24.04 have one that is new enough to fetch the wanted one.
        have=$(apt-cache policy golang-go 2>/dev/null | sed -n 's/.*Candidate: 2:1\.\([0-9]*\).*/\1/p')
        [ "${have:-0}" -ge 21 ] || fail "Go is not installed, and this system's own is too old."
        sudo=$([ "$(id -u)" -eq 0 ] || echo sudo)
        echo "installing golang-go"
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get -y -qq install --no-install-recommends golang-go >/dev/null
    fi
    out=$(go env GOVERSION 2>&1) || fail "Go $wanted is needed; the one installed says: $out."
    [ "$(printf '%s\n' "go$wanted" "$out" | sort -V | head -n 1)" = "go$wanted" ] || fail "Go $wanted is needed; the one installed is $out."

# The ACME server that certificates are tested against.
[private]
_pebble:
    @command -v pebble >/dev/null || GOFLAGS= go install github.com/letsencrypt/pebble/v2/cmd/pebble@{{ pebble_version }}

# The S3 server that the registry's storage is tested against.
[private]
_versitygw:
    @go version -m "$(command -v versitygw)" 2>/dev/null | grep -F {{ versitygw_version }} >/dev/null || GOFLAGS= go install github.com/versity/versitygw/cmd/versitygw@{{ versitygw_version }}

[private]
_golangci:
    @[ "v$(golangci-lint version --short 2>/dev/null)" = "{{ golangci_version }}" ] || GOFLAGS= go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@{{ golangci_version }}
