// A server-streaming call that any thread may write to. Messages wait in order while the client is
// slow; a derived class may merge a new message into the last one that waits. The object lives
// until both gRPC and the last sink that refers to it let go.
#ifndef KASCADE_SERVER_GRPC_STREAM_CALL_H_
#define KASCADE_SERVER_GRPC_STREAM_CALL_H_

#include <chrono>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "server/grpc/rpc_record.h"

namespace kascade::server {

template <typename Response>
class StreamCall : public grpc::ServerWriteReactor<Response>,
                   public std::enable_shared_from_this<StreamCall<Response>> {
 public:
  // Merges `next` into `last` and returns true, or returns false if they may not share a message.
  using Merge = bool (*)(Response& last, Response& next);

  StreamCall(ServerContext& context, std::string rpc)
      : context_(context), record_(context, std::move(rpc)) {}

  // Keeps the call alive until gRPC is done with it; to be called once, by the service.
  grpc::ServerWriteReactor<Response>* adopt() {
    self_ = this->shared_from_this();
    return this;
  }
  // Lets the call in, or says why not; to be called before start().
  absl::Status admit(const grpc::ServerContextBase& call) { return record_.admit(call); }
  // The request is no longer needed: until then the call does not end, since its request would go.
  void release_request() {
    {
      const std::lock_guard lock(outbox_mutex_);
      starting_ = false;
    }
    pump();
  }

  // Thread-safe; ignored after close() or once the client is gone.
  void send(Response response, Merge merge = nullptr) {
    {
      const std::lock_guard lock(outbox_mutex_);
      if (ending_ || broken_) return;
      const bool mergeable = merge != nullptr && outbox_.size() > (writing_ ? 1u : 0u);
      if (!mergeable || !merge(outbox_.back().message, response)) {
        outbox_.push_back({std::move(response)});
      }
      Waiting& last = outbox_.back();
      unsent_bytes_ -= last.bytes;  // before a merge
      last.bytes = last.message.ByteSizeLong();
      unsent_bytes_ += last.bytes;
    }
    pump();
  }

  // Ends the call once all is written. Thread-safe; only the first one counts.
  void close(const absl::Status& status) {
    {
      const std::lock_guard lock(outbox_mutex_);
      if (ending_) return;
      ending_ = status;
    }
    pump();
  }

  // Bytes of the messages that were not written yet.
  size_t bytes_to_write() const {
    const std::lock_guard lock(outbox_mutex_);
    return unsent_bytes_;
  }

 protected:
  // The client is gone, or its deadline passed. May come at any time, also after close().
  virtual void cancelled() = 0;
  // Something was written.
  virtual void written() {}

  ServerContext& context() const { return context_; }
  const RpcRecord& record() const { return record_; }

 private:
  struct Waiting {
    Response message;
    size_t bytes = 0;
  };

  void OnWriteDone(bool ok) final {
    const auto keep = this->shared_from_this();
    {
      const std::lock_guard lock(outbox_mutex_);
      writing_ = false;
      unsent_bytes_ -= outbox_.front().bytes;
      outbox_.pop_front();
      if (!ok) broken_ = true;
      if (broken_) outbox_.clear();
      if (outbox_.empty()) unsent_bytes_ = 0;
    }
    pump();
    if (ok) written();
  }
  void OnCancel() final {
    const auto keep = this->shared_from_this();
    {
      const std::lock_guard lock(outbox_mutex_);
      broken_ = true;
    }
    cancelled();
  }
  void OnDone() final { self_.reset(); }

  // Starts the next operation, outside the lock, as gRPC may run its callback at once.
  void pump() {
    const auto keep = this->shared_from_this();
    const Response* next = nullptr;
    absl::Status end;
    {
      const std::lock_guard lock(outbox_mutex_);
      if (writing_ || finished_) return;
      if (!outbox_.empty() && !broken_) {
        writing_ = true;
        next = &outbox_.front().message;
      } else if (ending_ && !starting_) {
        finished_ = true;
        end = *ending_;
      } else {
        return;
      }
    }
    if (next != nullptr) {
      this->StartWrite(next);
    } else {
      this->Finish(record_.finish(end));
    }
  }

  ServerContext& context_;
  RpcRecord record_;
  std::shared_ptr<StreamCall> self_;

  mutable std::mutex outbox_mutex_;  // guards what follows
  std::deque<Waiting> outbox_;       // the front is being written if writing_
  size_t unsent_bytes_ = 0;
  bool starting_ = true;
  bool writing_ = false;
  bool broken_ = false;  // nothing can be written any more
  bool finished_ = false;
  std::optional<absl::Status> ending_;
};

// The deadline that the client set.
inline absl::Time deadline_of(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture()
                                                                  : absl::FromChrono(deadline);
}

// Runs `call->start(request, deadline)`, on the work queue if the request is large.
template <typename Call, typename Request>
auto start_stream(std::shared_ptr<Call> call, ServerContext& context,
                  const grpc::CallbackServerContext& rpc, const Request& request) {
  auto* reactor = call->adopt();
  const absl::Time deadline = deadline_of(rpc);
  absl::Status status = call->admit(rpc);
  if (status.ok()) {
    status = context.work.run(request.ByteSizeLong(), [call, &request, deadline] {
      call->start(request, deadline);
      call->release_request();
    });
  }
  if (!status.ok()) {
    call->close(status);
    call->release_request();
  }
  return reactor;
}

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_STREAM_CALL_H_
