#!/usr/bin/env python3
"""Server reflection, asked over the channel as grpcurl asks it: reflection_test.py KASCADE_SERVER

What the server tells of its services must be what proto/ says.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from google.protobuf import descriptor_pb2, descriptor_pool

import python_client_test as client

# The part of grpc/reflection/v1alpha/reflection.proto that is asked here.
PROTO = """
syntax = "proto3";
package asked;
message Request {
  string host = 1;
  string file_containing_symbol = 4;
  string list_services = 7;
}
message Response {
  message Files { repeated bytes file_descriptor_proto = 1; }
  message Services {
    message Service { string name = 1; }
    repeated Service service = 1;
  }
  message Error { int32 error_code = 1; string error_message = 2; }
  Files file_descriptor_response = 4;
  Services list_services_response = 6;
  Error error_response = 7;
}
"""
METHOD = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
SERVICES = {"kascade.v1.InferenceService", "kascade.v1.CalibrationService", "kascade.v1.ServerService",
            "grpc.health.v1.Health"}
NOT_FOUND = 5


def compiled(folder):
    """The module of PROTO."""
    (folder / "asked.proto").write_text(PROTO)
    subprocess.run(["protoc", f"-I{folder}", f"--python_out={folder}", "asked.proto"], check=True)
    return __import__("asked_pb2")


def declared(folder):
    """The services of proto/ as protoc reads them: {full name: {method: (input, output, streams)}}."""
    out = folder / "protos.binpb"
    protos = client.ROOT / "proto"
    subprocess.run(["protoc", f"-I{protos}", f"--descriptor_set_out={out}", "--include_imports",
                    *map(str, protos.glob("kascade/v1/*.proto"))], check=True)
    files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return {f"{file.package}.{service.name}": methods_of(service)
            for file in files for service in file.service}


def methods_of(service):
    return {method.name: (method.input_type, method.output_type, method.server_streaming)
            for method in service.method}


class Reflection(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.channel = client.open_channel(cls)
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.folder = pathlib.Path(directory.name)
        sys.path.insert(0, str(cls.folder))
        cls.pb = compiled(cls.folder)

    def ask(self, **fields):
        call = self.channel.stream_stream(METHOD,
                                          request_serializer=self.pb.Request.SerializeToString,
                                          response_deserializer=self.pb.Response.FromString)
        return next(iter(call(iter([self.pb.Request(**fields)]), timeout=60)))

    def test_lists_the_services(self):
        services = self.ask(list_services="*").list_services_response.service
        self.assertLessEqual(SERVICES, {service.name for service in services})

    def test_tells_every_method_as_declared(self):
        for name, methods in declared(self.folder).items():
            files = self.ask(file_containing_symbol=name).file_descriptor_response
            told = [descriptor_pb2.FileDescriptorProto.FromString(file)
                    for file in files.file_descriptor_proto]
            services = {f"{file.package}.{service.name}": methods_of(service)
                        for file in told for service in file.service}
            self.assertEqual(services.get(name), methods)
            self.assertGreater(len(methods), 0)

    def test_what_it_tells_is_enough_to_build_messages(self):
        pool, wanted, known = descriptor_pool.DescriptorPool(), ["kascade.v1.ScoreRequest"], {}
        files = self.ask(file_containing_symbol=wanted[0]).file_descriptor_response
        for data in files.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            known[file.name] = file

        def add(name):
            for dependency in known[name].dependency:
                add(dependency)
            pool.Add(known[name])

        add("kascade/v1/score.proto")
        fields = pool.FindMessageTypeByName(wanted[0]).fields_by_name
        self.assertEqual(fields["attention"].message_type.full_name, "kascade.v1.AttentionOptions")

    def test_an_unknown_name_is_not_found(self):
        answer = self.ask(file_containing_symbol="kascade.v1.Nothing")
        self.assertEqual(answer.error_response.error_code, NOT_FOUND)


if __name__ == "__main__":
    if len(sys.argv) < 2 or not os.access(sys.argv[1], os.X_OK):
        sys.exit("usage: reflection_test.py KASCADE_SERVER")
    client.SERVER = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main()
