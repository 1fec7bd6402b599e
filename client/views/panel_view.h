// Formats the rows of a quality check: one per kind of text, and one per length of the prompts in
// which pass keys were asked for.
#ifndef KASCADE_CLIENT_VIEWS_PANEL_VIEW_H_
#define KASCADE_CLIENT_VIEWS_PANEL_VIEW_H_

#include <string>

#include "client/views/reports.h"
#include "kascade/v1/schedule.pb.h"

namespace kascade::client {

// How far the check reaches, and both tables; empty for a quality report without rows.
std::string panel_text(const v1::QualityReport& quality);

// The kind of text whose perplexity rises most, standard error included. There must be one.
const v1::KindQuality& worst_kind(const v1::QualityReport& quality);

// The row that decided, in words: the first length with too few pass keys, or else the kind of text
// whose perplexity rises most, standard error included. Empty for a quality report without rows.
std::string deciding_row_text(const v1::QualityReport& quality);

// Adds checked_tokens, kinds and retrieval to the JSON of a quality report.
void add_panel(const v1::QualityReport& quality, Json& out);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_VIEWS_PANEL_VIEW_H_
