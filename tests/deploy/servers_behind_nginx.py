#!/usr/bin/env python3
"""Two real servers behind a real nginx with the configuration of deploy/nginx: servers_behind_nginx.py ROOT SERVER

nginx is found by PATH.
"""

import pathlib
import tempfile
import unittest

from live_server import Daemon, wait
from servers_behind_proxy import PORT, ROOT, BehindProxy, Lost, ProxyTests

# What the distribution's own nginx.conf has around conf.d, with folders of the test.
AROUND = """daemon off;
pid FOLDER/pid;
error_log stderr;
worker_processes 1;
events {}
http {
  access_log off;
  client_body_temp_path FOLDER/body;
  proxy_temp_path FOLDER/proxy;
  fastcgi_temp_path FOLDER/fastcgi;
  uwsgi_temp_path FOLDER/uwsgi;
  scgi_temp_path FOLDER/scgi;
  include FOLDER/kascade.conf;
}
"""


def configuration(servers):
    """That of the project, with another port and with the servers' addresses."""
    text = (ROOT / "deploy/nginx/kascade.conf").read_text()
    changes = {"listen 50050 http2": f"listen 127.0.0.1:{PORT} http2"}
    changes |= {f"kascade-server-{i + 1}:50051": f"127.0.0.1:{server.port}" for i, server in enumerate(servers)}
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


class BehindNginx(ProxyTests, BehindProxy):
    def start_proxy(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        pathlib.Path(folder.name, "kascade.conf").write_text(configuration(self.servers))
        file = pathlib.Path(folder.name, "nginx.conf")
        file.write_text(AROUND.replace("FOLDER", folder.name))
        nginx = Daemon("nginx", "-p", folder.name, "-c", file)
        self.addCleanup(nginx.terminate)

        def answers():
            try:
                return self.generate(stub=self.stub_of(PORT))
            except Lost:
                return None
        wait(answers, "nginx answers")

    def wait_until_used(self, index):
        wait(lambda: self.servers[index].calls("Generate") > 0, "the new server gets calls")


if __name__ == "__main__":
    unittest.main(argv=["servers_behind_nginx.py"])
