// Uses the generated client as an application would; every value has a type from the document.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

const client = createClient<paths, "application/json">({ baseUrl: process.argv[2] ?? "" });

const user = await client.GET("/v1/features/user/{user_id}", {
  params: { path: { user_id: 1 }, query: { include: "meta" } },
});
if (!user.data) throw new Error(user.error?.error.message);
const watched: number = user.data.features.user_watch_count_7d;
const preferences: number[] = user.data.features.user_genre_preferences;

const ranking = await client.POST("/v1/features/rank", {
  body: { userId: 1, itemIds: [1, 2, 3], context: { requestHour: 21 } },
});
if (!ranking.data || !("items" in ranking.data)) throw new Error("no rows");
const items: components["schemas"]["RankItem"][] = ranking.data.items;
const begun: (boolean | null)[] = items.map((item) => item.interactionFeatures.continue_watching);

const rows = await client.POST("/v1/features", {
  body: { service: "home_page", entities: [{ user_id: 1 }, { user_id: 2 }] },
});
if (!rows.data || rows.data.service !== "home_page" || !("results" in rows.data)) {
  throw new Error("no results");
}
const counts: number[] = rows.data.results.map((row) => row.features.user_watch_count_7d);

const refused = await client.POST("/v1/features/rank", {
  body: { userId: 1, itemIds: [1], context: { requestHour: 24 } },
});

const feast = await client.POST("/get-online-features", {
  body: {
    feature_service: "home_page",
    entities: { user_id: [1] },
  },
});

console.log(
  JSON.stringify({
    watched,
    preferences,
    version: user.data.meta?.["user_habits"]?.version,
    items: items.map((item) => item.itemId),
    begun,
    counts,
    status: refused.response.status,
    field: refused.error?.error.field,
    names: feast.data?.metadata?.feature_names,
  }),
);
