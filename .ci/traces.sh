#!/usr/bin/env bash
# Prints what tests and demo could leave behind outside their own namespaces.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
echo "links:"
ls /sys/class/net | sort
echo "named namespaces:"
ls /run/netns 2>/dev/null | sort || true
echo "tables of the firewall:"
nft list tables 2>/dev/null | sort || true
echo "processes:"
for exe in /proc/[0-9]*/exe; do
    case $(readlink "$exe" 2>/dev/null || true) in
    */usnetd | */usnetd\ * | */c_client/echo*) readlink "$exe" ;;
    esac
done | sort
