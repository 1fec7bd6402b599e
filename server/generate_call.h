// One Generate: tokens of the engine become text, messages and a finish.
#ifndef KASCADE_SERVER_GENERATE_CALL_H_
#define KASCADE_SERVER_GENERATE_CALL_H_

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

#include "engine/engine.h"
#include "kascade/v1/generate.pb.h"
#include "server/stream_call.h"
#include "server/translate.h"

namespace kascade::server {

class GenerateCall final : public StreamCall<v1::GenerateResponse> {
 public:
  explicit GenerateCall(ServerContext& host) : StreamCall(host, "Generate") {}

  // Checks and submits, then returns; everything else happens in the engine's sink.
  void start(const v1::GenerateRequest& request, absl::Time deadline);

 private:
  void cancelled() override;
  void send_started();
  void on_event(const Event& event);
  // Adds a token to the message; false once the text is complete.
  bool take(const ScoredToken& token, bool is_stop_token, v1::GenerateDelta& delta);
  void observe_step(size_t tokens);
  void finish(const kascade::Finish& finish);
  void describe(const kascade::Finish& finish, v1::GenerateFinished& out) const;
  void describe_reason(const kascade::Finish& finish, v1::GenerateFinished& out) const;

  // Set by start(), then the engine thread's own.
  GeneratePlan plan_;
  std::optional<IncrementalDecoder> decoder_;
  int32_t generated_ = 0;
  Token last_token_ = 0;
  std::optional<std::string> matched_stop_;
  std::optional<absl::Time> first_token_;
  absl::Time last_step_{};

  std::mutex cancel_mutex_;  // guards what follows
  std::optional<SeqId> submitted_;
  bool client_gone_ = false;
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GENERATE_CALL_H_
