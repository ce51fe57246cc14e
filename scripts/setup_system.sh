# Install Debian packages that tests need where that is allowed: source scripts/setup_system.sh package:command ...
# Where it is not, says which tests will be skipped and how to install the package.

for _pair in "$@"; do
    _package="${_pair%%:*}" _command="${_pair#*:}"
    command -v "$_command" >/dev/null && continue
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing $_package"
        { apt-get install -y -qq "$_package" || { apt-get update -qq && apt-get install -y -qq "$_package"; }; } >/dev/null 2>&1 || true
    fi
    command -v "$_command" >/dev/null ||
        echo "notice: $_package is not installed and cannot be installed from here: tests that need it are skipped (apt-get install $_package)"
done
