// One generation: the prompt is encoded and submitted, and the engine's tokens become text, values
// reported with each token (ids, log-probabilities, ranks) and a final result. It does not know how
// requests arrive and answers leave.
#ifndef KASCADE_SERVER_CORE_GENERATION_H_
#define KASCADE_SERVER_CORE_GENERATION_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "server/core/attention.h"
#include "server/core/prompt.h"
#include "server/core/server_context.h"

namespace kascade::core {

// As a front end fills it in; ranges are checked by validate() of the engine. The text or tokens of
// the prompt must stay valid until Generation::start() returns.
struct GenerationRequest {
  Prompt prompt{};
  PromptOptions prompt_options{};
  Sampling sampling{};                      // its seed is ignored; see `seed`
  std::optional<uint64_t> seed{};           // unset: drawn at random
  std::optional<int32_t> max_new_tokens{};  // unset: 256, or the context if that is shorter
  int32_t min_new_tokens = 0;               // stop tokens are banned until so many were generated
  std::vector<std::string> stop_strings{};  // at most 16, each of 1 to 1,024 bytes
  std::vector<Token> stop_tokens{};         // at most 256
  bool ignore_eos = false;                  // go on past the end tokens of model and chat
  bool include_stop = false;                // the stop string or stop token ends the text
  bool skip_special_tokens = true;          // leave special tokens out of the text
  bool want_logprobs = false;               // and ranks
  int32_t top_logprobs = 0;                 // candidates with each token, 0 to 20
  std::optional<AttentionSource> attention{};  // unset: the active schedule, else dense
  Priority priority = Priority::kInteractive;
  std::string client{};  // who sent it
  absl::Time deadline = absl::InfiniteFuture();
};

// The request as it was understood.
struct GenerationStarted {
  std::span<const Token> prompt_tokens{};  // BOS included
  uint64_t seed = 0;
  int32_t max_new_tokens = 0;
  const AttentionChoice& attention;
};

// New tokens with the text that is complete; text may come later than its tokens.
struct GenerationDelta {
  std::string text{};
  std::span<const ScoredToken> tokens{};
};

enum class GenerationEnd {
  kEosToken,   // an end token of the model or of the chat format
  kStopToken,  // a stop token of the request
  kStopString,
  kMaxNewTokens,
  kContextLength,  // the model's context is full
};

struct GenerationTimings {
  absl::Duration queued{};                         // waiting for the first step
  absl::Duration prefill{};                        // computing the prompt
  absl::Duration total{};                          // arrival to end
  std::optional<absl::Duration> to_first_token{};  // from the arrival; unset without any token
  absl::Duration decode{};                         // first to last token
};

struct GenerationFinished {
  GenerationEnd end = GenerationEnd::kMaxNewTokens;
  std::optional<std::string> stop_string{};  // with kStopString
  Token last_token = 0;                      // with kEosToken and kStopToken: the one that ended it
  int32_t prompt_tokens = 0;
  int32_t generated_tokens = 0;  // a stop token counts too
  const AttentionChoice& attention;
  AttentionCounts counts{};  // over prompt and generated tokens
  GenerationTimings timings{};
};

// Where a generation's results go: started, any deltas, finished and ended in this order; after a
// failure ended alone follows. What spans and references point to is valid during the call. Called
// by the thread that starts the generation, then by the engine's; must not block.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  virtual void started(const GenerationStarted& started) = 0;
  virtual void delta(GenerationDelta delta) = 0;
  virtual void finished(const GenerationFinished& finished) = 0;
  // Called once, last; OK after finished().
  virtual void ended(const absl::Status& status) = 0;
};

class Generation {
 public:
  // `context` and `sink` outlive the generation. `arrival`: when the request came.
  Generation(ServerContext& context, GenerationSink& sink, absl::Time arrival)
      : context_(context), sink_(sink), arrival_(arrival), guard_(context.memory) {}

  // Checks and submits, then returns. `owner` keeps the generation and its sink alive until the
  // engine is done with both. Called once.
  void start(GenerationRequest request, std::shared_ptr<const void> owner);
  // The client is gone: nothing more is computed. Thread-safe, at any time.
  void cancel();

 private:
  absl::Status prepare(GenerationRequest request);
  absl::Status hold_memory();
  // Nothing is reported until the engine has admitted the request.
  absl::Status submit(const Submission& options, std::shared_ptr<const void> owner);
  void report_start();
  void on_event(const Event& event);
  // Adds a token's text; false once the text is complete.
  bool take(const ScoredToken& token, bool is_stop_token, std::string& text);
  void observe_step(size_t tokens);
  void finish(const Finish& finish);
  void compare_with_dense();
  GenerationFinished describe(const Finish& finish) const;
  GenerationTimings timings(const Finish& finish) const;
  const Generate& task() const { return std::get<Generate>(request_.task); }

  ServerContext& context_;
  GenerationSink& sink_;
  const absl::Time arrival_;
  RequestGuard guard_;  // of start(); holds what the request takes until it is destroyed

  // Set by start(), then the engine thread's own.
  Request request_{};
  bool include_stop_ = false;
  std::vector<Token> end_tokens_{};
  std::optional<IncrementalDecoder> decoder_{};
  int32_t generated_ = 0;
  Token last_token_ = 0;
  std::optional<std::string> matched_stop_{};
  std::optional<std::vector<Token>> shadowed_{};  // generated, to be compared once it has ended
  std::optional<absl::Time> first_token_{};
  absl::Time last_step_{};

  std::mutex cancel_mutex_;  // guards what follows
  std::optional<SeqId> submitted_{};
  bool cancelled_ = false;
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_GENERATION_H_
