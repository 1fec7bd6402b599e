// Formats the results of scoring as text and as JSON.
#ifndef KASCADE_CLIENT_VIEWS_SCORE_VIEW_H_
#define KASCADE_CLIENT_VIEWS_SCORE_VIEW_H_

#include <cstdint>
#include <string>
#include <vector>

#include "client/views/reports.h"
#include "kascade/v1/score.pb.h"
#include "kascade/v1/tokenize.pb.h"

namespace kascade::client {

// The contents of a Score stream.
struct ScoreRun {
  std::vector<std::string> files{};  // [texts] the file that each text is or belongs to
  std::vector<int64_t> lines{};      // [texts] the line that each text is; empty if texts are files
  v1::ScoreStarted started{};
  std::vector<v1::ScoreSummary> summaries{};  // [texts]
  // [texts]; empty unless tokens were requested
  std::vector<std::vector<v1::ScoreTokens>> tokens{};
  // [texts]; the spelling of the tokens, if they were requested
  std::vector<v1::TokenizedText> spelled{};
  v1::ScoreSummary total{};

  std::string name(size_t text) const;  // "a.txt", or "a.txt:12" for a line
};

std::string score_text(const ScoreRun& run);
Json score_json(const ScoreRun& run);
Json summary_json(const v1::ScoreSummary& summary);
// "+0.9423 % ± 0.1200", or why there is none.
std::string degradation_text(const v1::Comparison& comparison);
// Of a comparison.
Verdict verdict_of(const v1::ScoreSummary& summary);
// A table with one line per scored token of a text.
std::string token_table(const ScoreRun& run, size_t text);

// Returns a warning for a model that is hardly better than guessing or unusually bad, else an empty
// string.
std::string suspicion(const v1::ScoreSummary& summary);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_VIEWS_SCORE_VIEW_H_
