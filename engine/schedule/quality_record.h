// The result of a schedule's quality check, as it is stored with the schedule (docs/method.md, "The
// quality check").
#ifndef KASCADE_ENGINE_SCHEDULE_QUALITY_RECORD_H_
#define KASCADE_ENGINE_SCHEDULE_QUALITY_RECORD_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace kascade {

// Dense and sparse attention compared on the held-out text of one kind.
struct KindQuality {
  std::string kind{};
  int32_t windows = 0;
  int64_t tokens = 0;  // scored
  double dense_perplexity = 0;
  double sparse_perplexity = 0;
  double degradation_percent = 0;        // signed
  double degradation_error_percent = 0;  // its standard error
  double mean_kl = 0;                    // KL(dense ‖ sparse), nats per token
  double kl_99th_percentile = 0;         // of the tokens, nats
  double same_top1 = 0;                  // [0, 1]
  bool passed = false;
  bool operator==(const KindQuality&) const = default;
};

// Pass keys that are found in held-out text of one length.
struct RetrievalQuality {
  int32_t prompt_tokens = 0;  // length of the prompts; 0: those of all lengths together
  int32_t asked = 0;          // questions
  int32_t dense_found = 0;    // answered with dense attention
  // Dense attention answers at least half of the questions. Otherwise sparse attention was not
  // asked, and the fields below say nothing.
  bool measurable = false;
  int32_t sparse_found = 0;
  int32_t lost = 0;    // answered with dense attention only
  double p_value = 1;  // of the one-sided sign test (engine/quality/retrieval.h)
  bool passed = true;
  bool operator==(const RetrievalQuality&) const = default;
};

// The result of the quality check on held-out text. Perplexities are measured with per-query
// selection, which `phase` calls "row".
struct QualityRecord {
  std::string phase = "row";
  std::string protocol{};
  int64_t tokens = 0;
  double dense_perplexity = 0;
  double sparse_perplexity = 0;
  double degradation_percent = 0;  // signed
  // The standard error of degradation_percent, from differences paired by token; absent in older
  // files.
  std::optional<double> degradation_error_percent{};
  double mean_kl = 0;              // KL(dense ‖ sparse), nats per token
  double same_top1 = 0;            // [0, 1]
  double keys_attended_ratio = 0;  // [0, 1]
  double keys_scored_ratio = 0;
  std::optional<double> kv_bytes_read_per_token{};  // absent in older files
  std::optional<double> dense_kv_bytes_read_per_token{};
  double max_degradation_percent = 1.0;
  bool suspect = false;  // mean NLL of the dense run > ln(vocabulary) − 1
  // Why the dense run is not what a working model reaches, for people; unset if there is no doubt.
  std::optional<std::string> doubt{};
  // Tokens of the longest window: the check says nothing about longer contexts. 0 in older files.
  int32_t checked_tokens = 0;
  // One row per kind of text; empty in older files.
  std::vector<KindQuality> kinds{};
  // One row per length, and one for all lengths together if several can be measured. Empty in older
  // files, if it was not asked for, and if the perplexity of some kind decided already.
  std::vector<RetrievalQuality> retrieval{};
  bool passed = false;  // the whole check
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULE_QUALITY_RECORD_H_
