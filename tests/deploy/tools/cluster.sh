#!/usr/bin/env bash
# cluster.sh FOLDER start|stop: a Kubernetes control plane of its own on loopback: etcd, API server,
# controllers, scheduler, and a simulated node `gpu-0` with 8 GPUs, whose pods become ready without running.
# FOLDER gets keys, logs and the kubeconfig. KWOK_STAGES is the folder of kwok's stages; the programs are
# found by PATH.
set -euo pipefail
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$folder"

# Nothing of it is kept, so that nobody waits for the API server's orderly end of a minute.
stop() {
  local file
  for file in *.pid; do
    [[ ! -e $file ]] || kill -KILL "$(cat "$file")" 2>/dev/null || true
    rm -f "$file"
  done
}

# begin NAME COMMAND…: in the background, with its process id and log in the folder.
begin() {
  setsid nohup nice "${@:2}" >"$1.log" 2>&1 </dev/null &
  echo $! >"$1.pid"
}

# certificate NAME SUBJECT EXTENSION: a key and a certificate of our own authority.
certificate() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$2" \
    -keyout "$1.key" -out "$1.csr" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
    -extfile <(echo "$3") -out "$1.crt" 2>/dev/null
}

keys() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=authority \
    -keyout ca.key -out ca.crt 2>/dev/null
  certificate api /CN=kube-apiserver 'subjectAltName=IP:127.0.0.1,DNS:localhost'
  certificate admin /O=system:masters/CN=admin 'extendedKeyUsage=clientAuth'
  openssl genrsa -out accounts.key 2048 2>/dev/null
  cat >kubeconfig <<CONFIG
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://127.0.0.1:$api_port", certificate-authority: $folder/ca.crt}}]
users: [{name: admin, user: {client-certificate: $folder/admin.crt, client-key: $folder/admin.key}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
current-context: test
CONFIG
}

start_api() {
  begin etcd etcd --data-dir "$folder/etcd" --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:$etcd_port --advertise-client-urls http://127.0.0.1:$etcd_port \
    --listen-peer-urls http://127.0.0.1:$peer_port --initial-advertise-peer-urls http://127.0.0.1:$peer_port \
    --initial-cluster default=http://127.0.0.1:$peer_port
  begin apiserver kube-apiserver --etcd-servers=http://127.0.0.1:$etcd_port --bind-address=127.0.0.1 \
    --secure-port=$api_port --tls-cert-file=api.crt --tls-private-key-file=api.key --client-ca-file=ca.crt \
    --authorization-mode=Node,RBAC --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file=accounts.key --service-account-signing-key-file=accounts.key \
    --service-cluster-ip-range=10.96.0.0/16 --endpoint-reconciler-type=none --advertise-address=127.0.0.1
  local try
  for ((try = 0; try < 240; ++try)); do
    ! kubectl get --raw /readyz >/dev/null 2>&1 || return 0
    sleep 0.5
  done
  tail -n 5 apiserver.log >&2
  return 1
}

start_controllers() {
  local common=(--kubeconfig=kubeconfig --authentication-kubeconfig=kubeconfig
    --authorization-kubeconfig=kubeconfig --bind-address=127.0.0.1 --leader-elect=false)
  begin controllers kube-controller-manager "${common[@]}" --root-ca-file=ca.crt \
    --service-account-private-key-file=accounts.key
  begin scheduler kube-scheduler "${common[@]}"
  local stage
  for stage in node/fast/node-initialize node/heartbeat-with-lease/node-heartbeat-with-lease \
    pod/fast/pod-ready pod/fast/pod-complete pod/fast/pod-delete; do
    echo ---
    cat "$KWOK_STAGES/$stage.yaml"
  done >stages.yaml
  begin kwok kwok --kubeconfig=kubeconfig --config stages.yaml --manage-all-nodes=true \
    --server-address=127.0.0.1:$kwok_port --node-lease-duration-seconds=40
}

add_node() {
  local sizes='{"cpu":"64","memory":"512Gi","pods":"110","nvidia.com/gpu":"8"}'
  kubectl apply -f - >/dev/null <<'NODE'
apiVersion: v1
kind: Node
metadata:
  name: gpu-0
  annotations: {kwok.x-k8s.io/node: fake}
  labels: {kubernetes.io/hostname: gpu-0, kubernetes.io/os: linux, kubernetes.io/arch: amd64}
NODE
  kubectl patch node gpu-0 --subresource=status --type=merge \
    -p "{\"status\":{\"allocatable\":$sizes,\"capacity\":$sizes}}" >/dev/null
  kubectl wait --for=condition=Ready node/gpu-0 --timeout=60s >/dev/null
}

readonly api_port=16443 etcd_port=12379 peer_port=12380 kwok_port=11247
export KUBECONFIG=$folder/kubeconfig
case $2 in
  start)
    [[ -e ca.key ]] || keys
    trap 'stop' ERR
    start_api
    start_controllers
    add_node
    ;;
  stop) stop ;;
  *)
    echo "usage: cluster.sh FOLDER start|stop" >&2
    exit 2
    ;;
esac
