# Fetches the current version's tree from the daemon of this node into an empty directory, and puts the boot script beside it.
# Needs busybox. What fails is tried again for ten minutes.
set -euo pipefail
daemon=http://$HOST_IP:7070/v1/artifacts/smartos-platform
html=/usr/share/nginx/html/smartos

seed() {
    # Answers once there is a version; until then the request waits.
    wget -q -O /dev/null "$daemon/wait?timeout=10m" &&
        version=$(wget -q -O - "$daemon" | sed -n 's/.*"current":"\([^"]*\)".*/\1/p') &&
        [ -n "$version" ] &&
        rm -rf "$html" &&
        mkdir -p "$html/os/$version" &&
        wget -q -O - "$daemon/versions/$version/tree.tar" | tar x -C "$html/os/$version" &&
        sed "s|@VERSION@|$version|g; s|@BASE_URL@|$BASE_URL|g" /seed/smartos.ipxe >"$html/smartos.ipxe" &&
        echo "smartos-platform@$version -> $html"
}

end=$(($(date +%s) + 600))
until seed; do
    [ "$(date +%s)" -lt "$end" ] || exit 1
    sleep 1
done
