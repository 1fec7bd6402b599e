// A call with a stream of responses that any thread may write to. Messages wait in order while the
// client is slow; a derived class may merge a new message into the last one that waits. The object
// lives until both gRPC and the last sink that refers to it let go. A call whose client does not
// read is ended (core::ReaderMonitor).
#ifndef KASCADE_SERVER_GRPC_STREAM_CALL_H_
#define KASCADE_SERVER_GRPC_STREAM_CALL_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/base/clock.h"
#include "grpc/support/time.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "server/grpc/rpc_record.h"

namespace kascade::server {

// What became of a message that was to share another one.
enum class Merged { kNothing, kAppended, kReplaced };

// Empties a request that nobody reads any more. gRPC, which owns it, keeps it until the call has
// ended.
template <typename Message>
void free_message(const Message& message) {
  Message empty;
  const_cast<Message&>(message).Swap(&empty);
}

// `Reactor`: gRPC's, which may also receive a stream (grpc::ServerBidiReactor).
template <typename Response, typename Reactor = grpc::ServerWriteReactor<Response>>
class StreamCall : public Reactor,
                   public core::MonitoredCall,
                   public std::enable_shared_from_this<StreamCall<Response, Reactor>> {
 public:
  // Merges `next` into `last`, unless they may not share a message.
  using Merge = Merged (*)(Response& last, Response& next);

  StreamCall(ServerContext& context, std::string rpc)
      : context_(context), record_(context, std::move(rpc)), request_memory_(context.memory) {}

  // Keeps the call alive until gRPC is done with it; to be called once, by the service.
  Reactor* adopt(grpc::CallbackServerContext& rpc) {
    self_ = this->shared_from_this();
    rpc_ = &rpc;
    context_.readers.enter(*this);
    return this;
  }
  // Lets the call in, or says why not; to be called before start().
  absl::Status admit(const grpc::ServerContextBase& call) { return record_.admit(call); }
  // Holds the memory of the request; errors are those of the budget.
  template <typename Request>
  absl::Status hold_request(const Request& request) {
    return request_memory_.resize(static_cast<int64_t>(request.SpaceUsedLong()));
  }
  // The request is no longer needed: until then the call does not end, since its request would go.
  template <typename Request>
  void release_request(const Request& request) {
    free_message(request);
    (void)request_memory_.resize(0);  // giving back succeeds
    let_go();
  }

  // Thread-safe; ignored after close() or once the client is gone.
  void send(Response response, Merge merge = nullptr) {
    bool overflow = false;
    {
      const std::lock_guard lock(outbox_mutex_);
      if (ending_ || broken_) return;
      add(std::move(response), merge);
      overflow = unsent_bytes_ > max_unsent_bytes();
      if (overflow) drop_unsent(unread(absl::StatusCode::kResourceExhausted));
    }
    if (overflow) cancelled();
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

  // Memory of the messages that were not written yet, bytes.
  size_t bytes_to_write() const {
    const std::lock_guard lock(outbox_mutex_);
    return unsent_bytes_;
  }

 protected:
  // The client is gone, or its deadline passed. May come at any time, also after close().
  virtual void cancelled() = 0;
  // Something was written.
  virtual void written() {}
  // A call that leaves more than this unread is ended. By default a call bounds what it sends
  // itself.
  virtual size_t max_unsent_bytes() const { return std::numeric_limits<size_t>::max(); }

  // Called about every second; `earliest` as for end_if_stalled(). The call may have ended.
  virtual void look_after(absl::Time /*earliest*/) {}

  // Keeps the call from ending until let_go(); false if it has ended or is about to.
  bool hold() {
    const std::lock_guard lock(outbox_mutex_);
    if (ending_ || broken_ || finished_) return false;
    ++holds_;
    return true;
  }
  void let_go() {
    {
      const std::lock_guard lock(outbox_mutex_);
      --holds_;
    }
    pump();
  }

  bool is_cancelled() const { return rpc_->IsCancelled(); }
  ServerContext& context() const { return context_; }
  const RpcRecord& record() const { return record_; }
  RpcRecord& record() { return record_; }

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
  void OnDone() final {
    context_.readers.leave(*this);
    self_.reset();
  }
  // Until leave() has returned, gRPC's context exists.
  void end_if_stalled(absl::Time earliest) final {
    const auto keep = this->shared_from_this();
    look_after(earliest);
    {
      const std::lock_guard lock(outbox_mutex_);
      if (!writing_ || write_began_ > earliest) return;
      broken_ = true;
      ending_ = unread(absl::StatusCode::kDeadlineExceeded);
    }
    rpc_->TryCancel();
  }

  static absl::Status unread(absl::StatusCode code) {
    return absl::Status(code, "the client does not read what it is sent");
  }

  // outbox_mutex_ held, as with add(). What is being written stays.
  void drop_unsent(const absl::Status& status) {
    while (outbox_.size() > (writing_ ? 1u : 0u)) {
      unsent_bytes_ -= outbox_.back().bytes;
      outbox_.pop_back();
    }
    ending_ = status;
  }
  void add(Response response, Merge merge) {
    const size_t bytes = response.SpaceUsedLong();
    const bool mergeable = merge != nullptr && outbox_.size() > (writing_ ? 1u : 0u);
    const Merged merged = mergeable ? merge(outbox_.back().message, response) : Merged::kNothing;
    if (merged == Merged::kNothing) outbox_.push_back({std::move(response)});
    Waiting& last = outbox_.back();
    if (merged == Merged::kReplaced) {
      unsent_bytes_ -= last.bytes;
      last.bytes = 0;
    }
    last.bytes += bytes;
    unsent_bytes_ += bytes;
  }

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
        write_began_ = steady_now();
        next = &outbox_.front().message;
      } else if (ending_ && holds_ == 0) {
        finished_ = true;
        end = *ending_;
      } else {
        return;
      }
    }
    if (next != nullptr) {
      this->StartWrite(next);
    } else {
      this->Finish(record_.finish(end, rpc_));
    }
  }

  ServerContext& context_;
  RpcRecord record_;
  std::shared_ptr<StreamCall> self_;
  grpc::CallbackServerContext* rpc_ = nullptr;  // set by adopt()
  core::MemoryBudget::Reservation request_memory_;

  mutable std::mutex outbox_mutex_;  // guards what follows
  std::deque<Waiting> outbox_;       // the front is being written if writing_
  size_t unsent_bytes_ = 0;          // memory
  int holds_ = 1;                    // while it is more than 0, the call does not end
  bool writing_ = false;
  absl::Time write_began_{};
  bool broken_ = false;  // nothing can be written any more
  bool finished_ = false;
  std::optional<absl::Status> ending_;
};

// The deadline that the client set, in the time of steady_now(). A client may set it centuries
// ahead.
inline absl::Time deadline_of(const grpc::CallbackServerContext& context) {
  const gpr_timespec deadline = context.raw_deadline();
  if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0) {
    return absl::InfiniteFuture();
  }
  const gpr_timespec left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
  return steady_now() + absl::Seconds(left.tv_sec) + absl::Nanoseconds(left.tv_nsec);
}

// Whether a call waits for more than its turn.
enum class Waits { kNever, kForDisk };

// Runs the work of a call whose request has so many bytes. gRPC's threads never wait.
inline void run_work(ServerContext& context, Waits waits, size_t bytes,
                     std::function<void()> work) {
  if (waits == Waits::kForDisk) return context.work.post(std::move(work));
  context.work.run(bytes, std::move(work));
}

// Runs `call->start(request, deadline)`, on the work queue if the request is large or the call
// waits.
template <typename Call, typename Request>
auto start_stream(std::shared_ptr<Call> call, ServerContext& context,
                  grpc::CallbackServerContext& rpc, const Request& request,
                  Waits waits = Waits::kNever) {
  auto* reactor = call->adopt(rpc);
  const absl::Time deadline = deadline_of(rpc);
  absl::Status status = call->admit(rpc);
  if (status.ok()) status = call->hold_request(request);
  if (!status.ok()) {
    call->close(status);
    call->release_request(request);
    return reactor;
  }
  run_work(context, waits, request.ByteSizeLong(), [call, &request, deadline] {
    const absl::Status started = core::unless_out_of_memory([&] {
      call->start(request, deadline);
      return absl::OkStatus();
    });
    if (!started.ok()) call->close(started);
    call->release_request(request);
  });
  return reactor;
}

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_STREAM_CALL_H_
