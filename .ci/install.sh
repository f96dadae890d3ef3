#!/usr/bin/env bash
# Installs the Debian packages that the tests use, and the toolchain's parts. Nothing is upgraded.
set -euo pipefail

# command:package
needed=(
    cc:gcc ld:binutils ip:iproute2 nft:nftables tcpdump:tcpdump tshark:tshark iperf3:iperf3 curl:curl
    hping3:hping3 nping:nmap ping:iputils-ping ethtool:ethtool jq:jq setpriv:util-linux
    unshare:util-linux systemd-nspawn:systemd-container dpkg-deb:dpkg busybox:busybox
)
missing=()
for pair in "${needed[@]}"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
# The headers of the C library, and libraries for Python, have no command.
[ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
[ -d /usr/lib/python3/dist-packages/prometheus_client ] || missing+=(python3-prometheus-client)

if [ ${#missing[@]} -gt 0 ]; then
    echo "missing: ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        echo "not root: run  apt-get install ${missing[*]}" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

cargo --version
for part in rustfmt clippy; do
    cargo "${part/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$part"
done

# Parts that some steps need and say so if they do not have. None stops the run: a machine may have no
# nightly compiler, and no way to get one.
have() { "$@" --version >/dev/null 2>&1; }
have cargo deny || cargo install --locked --quiet cargo-deny || true
# Built faster than the release profile would: it packs one package.
have cargo deb || CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    cargo install --locked --quiet cargo-deb || true
if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
    have cargo +nightly miri || rustup component add miri rust-src --toolchain nightly || true
    have cargo +nightly fuzz || cargo install --locked --quiet cargo-fuzz || true
    command -v c++ >/dev/null || [ "$(id -u)" -ne 0 ] || apt-get install -q -y --no-install-recommends g++ || true
else
    echo "no nightly compiler: the steps miri and fuzz will be skipped"
fi
