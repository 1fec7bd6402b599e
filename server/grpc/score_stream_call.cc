#include "server/grpc/score_stream_call.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "engine/base/clock.h"
#include "server/core/limits.h"
#include "server/grpc/malformed_requests.h"
#include "server/grpc/translate_generate.h"

namespace kascade::server {
namespace {

// gRPC tells neither case from the other.
absl::Status cut_short() {
  return refuse(absl::StatusCode::kInvalidArgument,
                "the stream ended without its message `end`, or a message is no "
                "kascade.v1.ScoreStreamRequest: its bytes are cut short or damaged, or a string "
                "field holds bytes that are not UTF-8",
                {.reason = kMalformedRequest});
}

}  // namespace

ScoreStreamCall::ScoreStreamCall(ServerContext& context)
    : ScoreResults(context, "ScoreStream"),
      inputs_(context.engine, context.memory,
              core::max_piece_bytes(context.limits.max_message_bytes)),
      options_memory_(context.memory) {}

ScoreStreamReactor* ScoreStreamCall::begin(ServerContext& context,
                                           grpc::CallbackServerContext& rpc) {
  const auto call = std::make_shared<ScoreStreamCall>(context);
  ScoreStreamReactor* reactor = call->adopt(rpc);
  call->deadline_ = deadline_of(rpc);
  if (absl::Status status = call->admit(rpc); !status.ok()) {
    call->close(status);
  } else {
    call->read_next();
  }
  call->let_go();
  return reactor;
}

void ScoreStreamCall::cancelled() {
  inputs_.cancel();
  ScoreResults::cancelled();
}

void ScoreStreamCall::set_wait(Wait wait) {
  const std::lock_guard lock(wait_mutex_);
  if (wait_ != wait) waits_since_ = steady_now();
  wait_ = wait;
}

void ScoreStreamCall::read_next() {
  if (!hold()) return;
  const absl::Status status = inputs_.make_room();
  if (status.ok()) {
    set_wait(Wait::kMessage);
    StartRead(&message_);
  } else if (absl::IsResourceExhausted(status)) {
    set_wait(Wait::kRoom);
  } else {
    close(status);
  }
  let_go();
}

// Looks again whether there is room, and ends a call that has waited too long.
void ScoreStreamCall::look_after(absl::Time earliest) {
  Wait wait = Wait::kNothing;
  absl::Time since;
  {
    const std::lock_guard lock(wait_mutex_);
    wait = wait_;
    since = waits_since_;
  }
  if (wait == Wait::kMessage && since < earliest) {
    close(absl::DeadlineExceededError(
        "the client sends neither a piece nor `end` (--stalled-client-seconds)"));
  }
  if (wait != Wait::kRoom) return;
  const bool waits_too_long =
      since < earliest || steady_now() - since >= core::kLongestWaitForMemory;
  if (!waits_too_long) return read_next();
  if (absl::Status status = inputs_.make_room(); !status.ok()) return close(status);
  read_next();
}

void ScoreStreamCall::OnReadDone(bool ok) {
  set_wait(Wait::kNothing);
  if (!ok) return close(is_cancelled() ? absl::CancelledError("the client is gone") : cut_short());
  if (!hold()) return;
  const size_t bytes = message_.has_end()
                           ? inputs_.bytes_to_prepare()
                           : std::max(message_.ByteSizeLong(), inputs_.bytes_to_encode());
  context().work.run(bytes, [this, keep = shared_from_this()] {
    take();
    let_go();
  });
}

void ScoreStreamCall::take() {
  absl::Status status;
  switch (message_.part_case()) {
    case v1::ScoreStreamRequest::kOptions:
      status = take_options(message_.options());
      break;
    case v1::ScoreStreamRequest::kPiece:
      status = take_piece(message_.piece());
      break;
    case v1::ScoreStreamRequest::kEnd:
      return take_end();
    case v1::ScoreStreamRequest::PART_NOT_SET:
      status = invalid_field("part", "one of options, piece and end must be set");
      break;
  }
  if (!status.ok()) return close(status);
  free_message(message_);
  read_next();
}

absl::Status ScoreStreamCall::take_options(const v1::ScoreRequest& options) {
  if (options_) return invalid_field("options", "only the first message has options");
  if (options.inputs_size() > 0) {
    return invalid_field("options.inputs", "must be empty: inputs come in pieces");
  }
  const auto bytes = static_cast<int64_t>(options.SpaceUsedLong());
  if (absl::Status status = options_memory_.resize(bytes); !status.ok()) return status;
  options_ = std::move(*message_.mutable_options());
  set_options(*options_);
  const auto request = read_score(*options_, context().engine.model().layers, deadline_);
  if (!request.ok()) return request.status();
  absl::Status status = core::check_options(*request, context().engine, context().schedules);
  if (status.ok()) status = inputs_.begin(request->prompt_options, deadline_);
  return on_wire(status);
}

absl::Status ScoreStreamCall::take_piece(const v1::ScorePiece& piece) {
  if (!options_) {
    return invalid_field("options", "must come in the first message, before any piece");
  }
  core::InputPiece in{.input = piece.input_index()};
  switch (piece.content_case()) {
    case v1::ScorePiece::kText:
      in.content = std::string_view(piece.text());
      break;
    case v1::ScorePiece::kTokenIds:
      in.content = span_of(piece.token_ids().ids());
      break;
    case v1::ScorePiece::CONTENT_NOT_SET:
      return invalid_field("piece", "either text or token_ids must be set");
  }
  if (piece.has_context()) in.context = piece.context();
  if (piece.has_context_tokens()) in.context_tokens = piece.context_tokens();
  return inputs_.add(in);
}

void ScoreStreamCall::take_end() {
  if (!options_) {
    return close(invalid_field("options", "must come in the first message, before `end`"));
  }
  if (absl::Status status = inputs_.end(); !status.ok()) return close(status);
  auto request = read_score(*options_, context().engine.model().layers, deadline_);
  if (!request.ok()) return close(request.status());
  request->inputs = inputs_.inputs();
  start_scoring(*std::move(request));
  inputs_.release();
  options_.reset();
  (void)options_memory_.resize(0);  // giving back succeeds
}

}  // namespace kascade::server
