// Scores as text and as JSON.
#ifndef KASCADE_CLIENT_VIEWS_SCORE_VIEW_H_
#define KASCADE_CLIENT_VIEWS_SCORE_VIEW_H_

#include <string>
#include <vector>

#include "client/views/reports.h"
#include "kascade/v1/score.pb.h"
#include "kascade/v1/tokenize.pb.h"

namespace kascade::client {

// What a Score call gave.
struct ScoreRun {
  std::vector<std::string> files{};
  v1::ScoreStarted started{};
  std::vector<v1::ScoreSummary> summaries{};           // [files]
  std::vector<std::vector<v1::ScoreTokens>> tokens{};  // [files], empty unless asked for
  std::vector<v1::TokenizedText> spelled{};            // [files], with tokens: their spelling
  v1::ScoreSummary total{};
};

std::string score_text(const ScoreRun& run);
Json score_json(const ScoreRun& run);
// One line per scored token of a file.
std::string token_table(const ScoreRun& run, size_t file);

// "", or the warning for a model that is hardly better than guessing, or worse than usual.
std::string suspicion(const v1::ScoreSummary& summary);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_VIEWS_SCORE_VIEW_H_
