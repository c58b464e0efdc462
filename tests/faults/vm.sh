#!/bin/bash
# Unpacks qemu and Debian's kernel below DIR, once. Unpacked, not installed: qemu's packages would put others out.
#
#     tests/faults/vm.sh DIR
set -euo pipefail
mkdir -p "$1/packages"
cd "$1"
[ -e ready ] && exit
apt-cache show qemu-system-x86 >/dev/null 2>&1 || apt-get update -q
kernel=$(apt-cache depends linux-image-amd64 | awk '/Depends/ {print $2; exit}')
mapfile -t packages < <(
    apt-cache depends --recurse --no-{recommends,suggests,conflicts,breaks,replaces,enhances} qemu-system-x86 |
        grep '^[a-z0-9]' | sort -u | while read -r package; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
    done
)
(cd packages && apt-get download -q "${packages[@]}" "$kernel")
for package in packages/*.deb; do dpkg-deb -x "$package" .; done
rm -r packages
depmod -b . "$(ls lib/modules)"
touch ready
