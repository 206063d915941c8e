#!/bin/sh
# Make the secrets and a self-signed certificate that docker-compose.yml names; what exists is kept.
# The folders are private to their owner; the files are readable, because containers read them under their own uids.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets tls

once() { # once FILE VALUE
    [ -e "secrets/$1" ] || { printf '%s\n' "$2" > "secrets/$1"; chmod 444 "secrets/$1"; }
}

once postgres_password "$(openssl rand -hex 32)"
once redis_password "$(openssl rand -hex 32)"
once secret_key "$(openssl rand -hex 48)"
once metrics_token "$(openssl rand -hex 32)"
once grafana_password "$(openssl rand -hex 16)"
once redis.conf "requirepass $(cat secrets/redis_password)"
once redis_url "redis://:$(cat secrets/redis_password)@redis:6379/0"
once database_url "postgres://qflare:$(cat secrets/postgres_password)@postgres:5432/qflare"
for role in web worker audit; do
    once "database_password_$role" "$(openssl rand -hex 32)"
    once "database_url_$role" "postgres://qflare_$role:$(cat "secrets/database_password_$role")@postgres:5432/qflare"
done

[ -e tls/server.key ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -noenc -days 365 \
    -subj /CN=localhost -addext subjectAltName=DNS:localhost,DNS:nginx,IP:127.0.0.1 \
    -keyout tls/server.key -out tls/server.crt
chmod 444 tls/server.key tls/server.crt
