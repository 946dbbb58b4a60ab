#!/bin/bash
# 30-system.sh SHARE: the binaries, the units and the installer.
set -euo pipefail
share=$1
nice make -s build
mkdir -p "$share/nofx/scripts"
cp -r bin systemd "$share/nofx/"
cp scripts/install.sh "$share/nofx/scripts/"
