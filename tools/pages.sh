#!/usr/bin/env bash
# tools/pages.sh [ARGUMENTS OF PYTEST]: the page of a comparison in a headless browser (tests/report/test_page_in_a_browser.py).
# Where there is no Chromium, Debian's is installed: 100 MB are loaded, 300 MB are needed.
set -euo pipefail
cd "$(dirname "$0")/.."

browsers=(chromium-headless-shell chromium chromium-browser google-chrome)

if ! command -v "${browsers[@]}" >/dev/null; then
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "pages: skipped, there is no Chromium, and only root can install one, by apt-get"
    exit 0
  fi
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${browsers[0]}" >/dev/null
fi
SPARSE_EXT_BROWSER=required python -m pytest tests/report/test_page_in_a_browser.py "$@"
