// Sequences of calls to a server with a tiny model, over gRPC: requests of all kinds in any order,
// some of them no messages at all, from clients that read, leave, or set a deadline. Whatever they
// send, the server answers, and has all its memory and cache back once they are gone.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "server/grpc/server.h"
#include "spdlog/spdlog.h"
#include "tests/fuzz/message_mutator.h"
#include "tests/fuzz/request_sequence.h"
#include "tests/support/tiny_model.h"

namespace kascade::testing {
namespace {

constexpr size_t kMostCalls = 12;
constexpr auto kShortDeadline = std::chrono::milliseconds(5);
// A request may ask for much work. What takes longer is left.
constexpr auto kLongDeadline = std::chrono::milliseconds(1000);
constexpr auto kPatience = std::chrono::seconds(20);

std::chrono::system_clock::time_point in(std::chrono::milliseconds time) {
  return std::chrono::system_clock::now() + time;
}

// One server for all inputs: what an input leaves behind is found, too.
class FuzzedServer {
 public:
  FuzzedServer() {
    spdlog::set_level(spdlog::level::off);
    write_tiny_model({.layers = 3, .context = 256, .peaked = true}, folder_.path());
    server::ServerOptions options;
    options.engine.model_directory = folder_.path();
    options.engine.backend = "reference";
    options.engine.max_sequences = 4;
    options.engine.max_batch_tokens = 260;
    options.engine.max_queue = 4;
    options.engine.kv_memory_bytes = 1 << 20;
    options.engine.threads = 1;
    options.listen = absl::StrCat("unix:", (folder_ / "socket").string());
    options.metrics_listen = "";
    options.max_message_bytes = 1 << 16;
    options.request_memory_bytes = 8 << 20;
    auto started = server::Server::start(options);
    KASCADE_CHECK(started.ok());
    server_ = *std::move(started);
    channel_ = grpc::CreateChannel(options.listen, grpc::InsecureChannelCredentials());
  }

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // Ends the calibration that may be left, and waits until nothing is.
  void settle() {
    const auto calibration = v1::CalibrationService::NewStub(channel_);
    v1::ListCalibrationsResponse jobs;
    grpc::ClientContext list;
    list.set_deadline(in(kPatience));
    KASCADE_CHECK(calibration->ListCalibrations(&list, {}, &jobs).ok());
    for (const v1::Calibration& job : jobs.calibrations()) {
      if (job.state() != v1::CALIBRATION_STATE_RUNNING) continue;
      v1::CancelCalibrationRequest request;
      request.set_calibration_id(job.calibration_id());
      v1::CancelCalibrationResponse response;
      grpc::ClientContext context;
      context.set_deadline(in(kPatience));
      KASCADE_CHECK(calibration->CancelCalibration(&context, request, &response).ok());
    }
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!is_idle()) {
      KASCADE_CHECK(std::chrono::steady_clock::now() < deadline);
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }

 private:
  bool is_idle() {
    const EngineStats stats = server_->engine().stats();
    if (stats.free_blocks != stats.total_blocks || stats.running + stats.waiting > 0) return false;
    const std::string text = server_->metrics_text();
    return text.find("\nkascade_rpc_in_flight 0\n") != text.npos &&
           text.find("\nkascade_request_memory_bytes 0\n") != text.npos;
  }

  TempDir folder_;
  std::unique_ptr<server::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

FuzzedServer& server() {
  static auto* const fuzzed = new FuzzedServer;  // threads of gRPC outlive main()
  return *fuzzed;
}

// A call of any method, with bytes as messages: to the client all methods are streams.
class Call {
 public:
  Call(const std::shared_ptr<grpc::Channel>& channel, const EncodedCall& call)
      : stub_(channel), client_(Client::from_byte(call.client)) {
    const auto& method = method_of(call);
    context_.set_deadline(in(client_.has_short_deadline ? kShortDeadline : kLongDeadline));
    stream_ = stub_.PrepareCall(
        &context_, absl::StrCat("/", method.service()->full_name(), "/", method.name()), &queue_);
    stream_->StartCall(this);
    if (!next()) return;
    const grpc::Slice slice(call.request);
    stream_->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), this);
    (void)next();
    for (int i = 0; i < client_.messages_before_cancel && read(); ++i) {
    }
    if (client_.messages_before_cancel >= 0) context_.TryCancel();
    if (client_.waits_for_end) end();
  }
  ~Call() { end(); }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

 private:
  bool next() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }
  bool read() {
    grpc::ByteBuffer message;
    stream_->Read(&message, this);
    return next();
  }
  void end() {
    if (std::exchange(ended_, true)) return;
    while (client_.reads && read()) {
    }
    // Messages that nobody reads do not let the status through.
    if (!client_.reads) context_.TryCancel();
    grpc::Status status;
    stream_->Finish(&status, this);
    (void)next();
    KASCADE_CHECK(status.error_code() != grpc::StatusCode::INTERNAL);
    KASCADE_CHECK(status.error_code() != grpc::StatusCode::UNKNOWN);
    KASCADE_CHECK(status.error_code() != grpc::StatusCode::UNAVAILABLE);
  }

  grpc::GenericStub stub_;
  const Client client_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  bool ended_ = false;
};

// Changes one of the calls where its request can be parsed; false if none was changed.
bool mutate_a_call(std::vector<EncodedCall>& calls, std::minstd_rand& random) {
  if (calls.empty() || (calls.size() < kMostCalls && random() % 8 == 0)) {
    calls.insert(calls.begin() + static_cast<int64_t>(random() % (calls.size() + 1)),
                 {.method = static_cast<uint8_t>(random() % methods().size())});
  }
  EncodedCall& call = calls[random() % calls.size()];
  if (random() % 4 == 0) call.client = static_cast<uint8_t>(random());
  const auto request = new_request(call);
  if (!request->ParseFromString(call.request)) return false;
  for (auto times = 1 + random() % 3; times > 0; --times) mutate(*request, random);
  return request->SerializeToString(&call.request) && call.request.size() < 0xffff;
}

}  // namespace
}  // namespace kascade::testing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using kascade::testing::Call;
  auto calls = kascade::testing::parse_calls({reinterpret_cast<const char*>(data), size});
  calls.resize(std::min(calls.size(), kascade::testing::kMostCalls));
  {
    std::vector<std::unique_ptr<Call>> running;
    for (const auto& call : calls) {
      running.push_back(std::make_unique<Call>(kascade::testing::server().channel(), call));
    }
  }
  kascade::testing::server().settle();
  return 0;
}

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size)
    __attribute__((weak));  // of libFuzzer; the replay of the corpus has none

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  std::minstd_rand random(seed);
  if (random() % 4 == 0) return LLVMFuzzerMutate(data, size, max_size);  // raw bytes
  auto calls = kascade::testing::parse_calls({reinterpret_cast<const char*>(data), size});
  if (!kascade::testing::mutate_a_call(calls, random)) {
    return LLVMFuzzerMutate(data, size, max_size);
  }
  const std::string bytes = kascade::testing::to_bytes(calls);
  if (bytes.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::copy(bytes.begin(), bytes.end(), data);
  return bytes.size();
}
