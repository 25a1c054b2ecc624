#!/usr/bin/env bash
# Starts MLflow's server with basic auth; the same on one machine (../compose.yaml) and on Kubernetes.
# Wants: MLFLOW_BACKEND_STORE_URI, AUTH_DATABASE_URI, MLFLOW_ARTIFACTS, MLFLOW_AUTH_ADMIN_USERNAME and _PASSWORD,
# MLFLOW_FLASK_SERVER_SECRET_KEY, MLFLOW_SERVER_ALLOWED_HOSTS, and credentials of the artifacts' store.
set -euo pipefail
umask 077

# MLflow reads the database of its users from a file only; no command line shows a password. To check one takes a tenth of
# a second, at each of the hundred requests that a model is: for a minute it is remembered, also one that is revoked.
export MLFLOW_AUTH_CONFIG_PATH=/tmp/basic_auth.ini
cat > "$MLFLOW_AUTH_CONFIG_PATH" <<END
[mlflow]
default_permission = READ
database_uri = ${AUTH_DATABASE_URI//%/%%}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
END
mkdir -p /tmp/metrics

# Jobs that MLflow runs in the server, in eight more processes: nothing here asks for one.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
exec mlflow server \
    --host=0.0.0.0 \
    --port=5000 \
    --app-name=basic-auth \
    --serve-artifacts \
    --artifacts-destination="${MLFLOW_ARTIFACTS:?}" \
    --expose-prometheus=/tmp/metrics
