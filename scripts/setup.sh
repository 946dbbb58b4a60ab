#!/bin/bash
# setup.sh [acceptance]: installs what NOFX's build, tests and demo need, or
# with "acceptance" what its virtual machine needs, and this Debian machine does
# not have yet. Quiet when nothing is missing. It never starts a Postgres
# cluster: NOFX runs a private one of its own.
set -euo pipefail

# ip and others are not on every user's path.
PATH=$PATH:/usr/sbin:/sbin

what=${1:-work}

# package | how to see that what it brings is there, a command
needs() {
	cat <<-'LIST'
		gcc             | command -v gcc
		libc6-dev       | test -e /usr/include/stdio.h && test -e "$(gcc -print-file-name=libc.a)"
		make            | command -v make
		bubblewrap      | command -v bwrap
		iproute2        | command -v ip
		util-linux      | command -v nsenter && command -v unshare
		e2fsprogs       | command -v mkfs.ext4 && command -v e2fsck
		busybox-static  | test -x /bin/busybox -o -x /usr/bin/busybox
		jq              | command -v jq
		git             | command -v git
		python3-minimal | test -x /usr/bin/python3
		python3-grpcio  | /usr/bin/python3 -c 'import grpc'
		python3-protobuf | /usr/bin/python3 -c 'import google.protobuf'
		openssl         | command -v openssl
		nodejs          | command -v node
		ca-certificates | test -s /etc/ssl/certs/ca-certificates.crt
		postgresql      | ls /usr/lib/postgresql/*/bin/initdb
		postgresql-15-cron | test -e /usr/lib/postgresql/15/lib/pg_cron.so
		libfaketime     | ls /usr/lib/*/faketime/libfaketime.so.1
		docker.io       | test -x /usr/sbin/dockerd && test -x /usr/bin/containerd
		iptables        | command -v iptables
	LIST
}

needs_acceptance() {
	cat <<-'LIST'
		debootstrap     | command -v debootstrap
		e2fsprogs       | command -v mkfs.ext4 && command -v debugfs
		qemu-system-x86 | command -v qemu-system-x86_64
		cpio            | command -v cpio
		busybox-static  | test -x /bin/busybox
	LIST
}

case $what in
work) list=needs ;;
acceptance) list=needs_acceptance ;;
*) echo "setup: no list $what; there are: acceptance, or nothing for the rest" >&2; exit 2 ;;
esac

missing=()
while read -r package check; do
	(eval "${check#| }") >/dev/null 2>&1 || missing+=("$package")
done < <($list)

if ! command -v go >/dev/null 2>&1; then
	echo "setup: Go is not there: install Go 1.21 or newer (https://go.dev/dl), then run this again" >&2
	exit 1
fi
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
	echo "setup: this is not Debian; please install yourself: ${missing[*]}" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "setup: ${missing[*]} missing; as root type: apt-get install --no-install-recommends ${missing[*]}" >&2
	exit 1
fi

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# quietly NAME COMMAND...: at most ten minutes, output only if it fails.
quietly() {
	local what=$1
	shift
	if ! timeout 600 "$@" >"$log" 2>&1 </dev/null; then
		tail -n 20 "$log" >&2
		echo "setup: $what failed" >&2
		exit 1
	fi
}

apt=(apt-get -q -y -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3)
echo "setup: installing ${missing[*]}"
if ! timeout 600 "${apt[@]}" update >"$log" 2>&1 </dev/null; then
	echo "setup: apt-get update failed, trying with the lists that are there" >&2
fi

# Debian's postgresql makes and starts a cluster when it is installed, unless
# postgresql-common says otherwise at that moment.
if [[ " ${missing[*]} " == *" postgresql "* ]]; then
	quietly "installing postgresql-common" "${apt[@]}" install --no-install-recommends postgresql-common
	conf=/etc/postgresql-common/createcluster.conf
	cp -p "$conf" "$conf.nofx-setup"
	trap 'mv -f /etc/postgresql-common/createcluster.conf.nofx-setup /etc/postgresql-common/createcluster.conf; rm -f "$log"' EXIT
	echo "create_main_cluster = false" >>"$conf"
fi
# Debian's docker.io starts an engine when it is installed; whoever wants one
# starts it. The tests have their own.
if [[ " ${missing[*]} " == *" docker.io "* ]] && [ ! -e /usr/sbin/policy-rc.d ]; then
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
	chmod 755 /usr/sbin/policy-rc.d
	trap 'rm -f /usr/sbin/policy-rc.d "$log"; mv -f /etc/postgresql-common/createcluster.conf.nofx-setup /etc/postgresql-common/createcluster.conf 2>/dev/null || true' EXIT
fi
quietly "installing ${missing[*]}" "${apt[@]}" install --no-install-recommends "${missing[@]}"
