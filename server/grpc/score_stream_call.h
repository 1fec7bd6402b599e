// The stream of a ScoreStream: options, the pieces of the inputs, `end`; then it is as a Score. One
// message is taken at a time, and the next one is read when the memory of requests has room for it.
#ifndef KASCADE_SERVER_GRPC_SCORE_STREAM_CALL_H_
#define KASCADE_SERVER_GRPC_SCORE_STREAM_CALL_H_

#include <mutex>
#include <optional>

#include "kascade/v1/score.pb.h"
#include "server/core/streamed_inputs.h"
#include "server/grpc/score_results.h"

namespace kascade::server {

using ScoreStreamReactor = grpc::ServerBidiReactor<v1::ScoreStreamRequest, v1::ScoreResponse>;

class ScoreStreamCall final : public ScoreResults<ScoreStreamReactor> {
 public:
  explicit ScoreStreamCall(ServerContext& context);

  // The reactor of a new call.
  static ScoreStreamReactor* begin(ServerContext& context, grpc::CallbackServerContext& rpc);

 private:
  // What the call waits for, and since when.
  enum class Wait { kNothing, kMessage, kRoom };

  void cancelled() override;
  void look_after(absl::Time earliest) override;
  void OnReadDone(bool ok) override;

  // Reads the next message, or begins to wait for room.
  void read_next();
  void set_wait(Wait wait);
  // Takes the message that was read.
  void take();
  absl::Status take_options(const v1::ScoreRequest& options);
  absl::Status take_piece(const v1::ScorePiece& piece);
  // Scores what has come.
  void take_end();

  absl::Time deadline_{};
  core::StreamedInputs inputs_;
  v1::ScoreStreamRequest message_{};           // that is read or taken
  std::optional<v1::ScoreRequest> options_{};  // of the first message
  core::MemoryBudget::Reservation options_memory_;

  std::mutex wait_mutex_;  // guards what follows
  Wait wait_ = Wait::kNothing;
  absl::Time waits_since_{};
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_SCORE_STREAM_CALL_H_
