#!/usr/bin/env python3
"""Two real servers behind a real Envoy with the configuration of deploy/envoy: servers_behind_envoy.py ROOT SERVER

envoy is found by PATH.
"""

import pathlib
import tempfile
import unittest

import grpc
import yaml

from live_server import Daemon, text_of, wait
from servers_behind_proxy import PORT, ROOT, SERVICE_CONFIG, BehindProxy, ProxyTests

ADMIN = 19901


def configuration(servers):
    """That of the project, with other ports and with the servers' addresses."""
    envoy = yaml.safe_load((ROOT / "deploy/envoy/envoy.yaml").read_text())
    envoy["admin"]["address"]["socket_address"]["port_value"] = ADMIN
    resources = envoy["static_resources"]
    resources["listeners"][0]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": PORT}
    cluster = resources["clusters"][0]
    cluster["type"] = "STATIC"
    cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": server.port}}}}
        for server in servers]}]
    return yaml.safe_dump(envoy)


class BehindEnvoy(BehindProxy):
    def start_proxy(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        file = pathlib.Path(folder.name, "envoy.yaml")
        file.write_text(configuration(self.servers))
        envoy = Daemon("envoy", "--config-path", file, "--log-level", "warning", "--concurrency", "1",
                       "--use-dynamic-base-id")
        self.addCleanup(envoy.kill)
        wait(lambda: self.healthy() == 2, "Envoy finds both servers healthy")

    def healthy(self):
        lines = text_of(f"http://127.0.0.1:{ADMIN}/clusters").splitlines()
        return sum("health_flags::healthy" in line for line in lines)

    def wait_until_used(self, index):
        # Envoy may have set the address aside while nobody listened there.
        wait(lambda: self.healthy() == 2 and self.servers[index].calls("Generate") > 0,
             "the new server is healthy and gets calls")


class Calls(ProxyTests, BehindEnvoy):
    pass


class Overload(BehindEnvoy):
    SERVER_OPTIONS = ("--max-sequences", "1", "--max-queue", "1")

    def occupy(self, server):
        """Calls that fill a server until they are cancelled: one that runs, and one that waits."""
        stub = self.stub_of(server.port)
        calls = []
        for gauge in ("kascade_requests_running", 'kascade_requests_waiting{priority="interactive"}'):
            calls.append(stub.Generate(self.request(4000)))
            next(calls[-1])  # `started`: it is admitted
            wait(lambda gauge=gauge: f"\n{gauge} 1\n" in text_of(f"http://127.0.0.1:{server.metrics_port}/metrics"),
                 f"{gauge} is 1")
        return calls

    def test_a_full_server_is_passed_over_and_its_pushback_is_kept(self):
        calls = self.occupy(self.servers[0])
        before = self.servers[1].calls("Generate")
        for _ in range(6):
            self.generate()
        self.assertEqual(self.servers[1].calls("Generate") - before, 6, "the other server took them")

        calls += self.occupy(self.servers[1])
        with self.assertRaises(grpc.RpcError) as caught:
            list(self.stub.Generate(self.request(4), timeout=60))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        trailers = dict(caught.exception.trailing_metadata())
        self.assertGreaterEqual(int(trailers["grpc-retry-pushback-ms"]), 250)
        self.assertIn("grpc-status-details-bin", trailers)

        # A client that waits as long as it was told gets its turn.
        waiting = self.stub_of(PORT, ("grpc.service_config", SERVICE_CONFIG)).Generate(self.request(4), timeout=60)
        for call in calls:
            call.cancel()
        self.assertTrue(list(waiting)[-1].HasField("finished"))


if __name__ == "__main__":
    unittest.main(argv=["servers_behind_envoy.py"])
